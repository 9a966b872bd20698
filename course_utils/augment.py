"""One description of an augmentation, two engines that carry it out.

``variants.toml`` lists the steps; each step is a class below, with its settings as fields. ``BatchedAugment`` takes
whole uint8 batches on any device: neighbouring geometric steps become one matrix an image and one ``grid_sample``.
``albumentations_pipeline`` builds the same from Albumentations, image by image, as the reference to compare with.

Every draw is a function of (run, epoch, image): it depends on neither workers, batch nor device, and differs between
epochs. The number generator is SplitMix64 (Steele, Lea, Flood 2014), used as a hash of a counter.
"""
from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.experiment import CourseError, Transform, unknown

if TYPE_CHECKING:
    import albumentations as A

Colour = tuple[float, float, float]  # RGB, 0 to 1


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right."""

    draws: ClassVar[int] = 0  # random numbers an image needs, besides the one that decides on p

    def matrix(self, u: Tensor, size: int) -> Tensor:
        mirror = torch.eye(3, device=u.device)
        mirror[0, 0] = -1
        return mirror.expand(len(u), 3, 3)

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A

        return A.HorizontalFlip(p=p)


@dataclass(frozen=True)
class ShiftScaleRotate:
    """Rotate and scale about the centre, then shift; bilinear, mirrored at the border.

    As Albumentations 2 does it: the shift is cut to whole pixels, one scale serves both axes.
    """

    shift: float = 0.0625  # largest shift along each axis, share of the image's side (at 32 pixels: below 2, so 1)
    scale: float = 0.1  # largest change of scale, so 0.1 is 0.9 to 1.1
    rotate: float = 45.0  # largest angle, degrees
    draws: ClassVar[int] = 4

    def matrix(self, u: Tensor, size: int) -> Tensor:
        """(B, 3, 3), from a pixel of the result to its place in the input, in pixels from the centre."""
        u = 2 * u - 1
        angle, scale = -u[:, 0] * math.radians(self.rotate), 1 + u[:, 1] * self.scale
        shift = (u[:, 2:4] * self.shift * size).trunc()
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        turn = torch.stack([torch.stack([cos, sin], 1), torch.stack([-sin, cos], 1)], 1)  # undoes turn and scale
        out = torch.zeros(len(u), 3, 3, device=u.device)
        out[:, :2, :2], out[:, 2, 2] = turn, 1
        out[:, :2, 2:] = -turn @ shift[:, :, None]
        return out

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A
        import cv2

        sides = dict.fromkeys("xy", (-self.shift, self.shift))
        return A.Affine(scale=(1 - self.scale, 1 + self.scale), rotate=(-self.rotate, self.rotate), p=p,
                        translate_percent=sides, keep_ratio=True, border_mode=cv2.BORDER_REFLECT_101, strict=True)


@dataclass(frozen=True)
class CoarseDropout:
    """Cover one square hole, wholly inside the image, with the data set's mean colour (DeVries & Taylor 2017)."""

    size: int = 16  # pixels, side of the hole
    draws: ClassVar[int] = 2

    def pixels(self, x: Tensor, u: Tensor, on: Tensor, mean: Tensor) -> Tensor:
        height, width = x.shape[2:]
        if self.size > min(height, width):
            raise CourseError(f"coarse_dropout size {self.size}: larger than the image ({height}x{width}).")
        top = (u[:, 0] * (height - self.size + 1)).floor().view(-1, 1, 1, 1)
        left = (u[:, 1] * (width - self.size + 1)).floor().view(-1, 1, 1, 1)
        rows = torch.arange(height, device=x.device).view(1, 1, -1, 1)
        columns = torch.arange(width, device=x.device).view(1, 1, 1, -1)
        hole = (rows >= top) & (rows < top + self.size) & (columns >= left) & (columns < left + self.size)
        return torch.where(hole & on.view(-1, 1, 1, 1), mean.round(), x)

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A

        side = (self.size, self.size)
        return A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=side, hole_width_range=side,
                               fill=tuple(fill), p=p, strict=True)


@dataclass(frozen=True)
class ToGray:
    """Replace the colours by their brightness (ITU-R 601 weights, as OpenCV), still three channels."""

    draws: ClassVar[int] = 0

    def pixels(self, x: Tensor, u: Tensor, on: Tensor, mean: Tensor) -> Tensor:
        weights = _channels((0.299, 0.587, 0.114), x.device)
        return torch.where(on.view(-1, 1, 1, 1), (x * weights).sum(1, keepdim=True), x)

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A

        return A.ToGray(p=p, strict=True)


TRANSFORMS: Mapping[str, type] = {
    "horizontal_flip": HorizontalFlip,
    "shift_scale_rotate": ShiftScaleRotate,
    "coarse_dropout": CoarseDropout,
    "to_gray": ToGray,
}


def build_steps(augmentation: Sequence[Transform]) -> list[tuple[float, object]]:
    """``(p, transform)`` of each described step. Raises ``CourseError`` for an unknown name, setting or p."""
    steps = []
    for described in augmentation:
        if described.name not in TRANSFORMS:
            raise unknown("transform", described.name, TRANSFORMS)
        kind = TRANSFORMS[described.name]
        legal = [f.name for f in dataclasses.fields(kind)]
        for name, value in described.settings.items():
            if name not in legal:
                raise unknown(f"setting of {described.name}", name, legal)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise CourseError(f"{described.name}: {name} = {value!r} must be a number, not below 0.")
        if not 0 <= described.p <= 1:
            raise CourseError(f"{described.name}: p = {described.p!r} must lie between 0 and 1.")
        steps.append((described.p, kind(**described.settings)))
    return steps


def normalise(images: Tensor, mean: Colour, std: Colour) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), channels last in memory, about mean 0 and deviation 1."""
    x = images.permute(0, 3, 1, 2).float()
    return (x / 255 - _channels(mean, x.device)) / _channels(std, x.device)


def viewable(x: Tensor, mean: Colour, std: Colour) -> np.ndarray:
    """Normalised (B, 3, H, W) back to pictures: float32 (B, H, W, 3), 0 to 1."""
    pixels = x.detach().cpu().float()
    pictures = pixels * _channels(std, pixels.device) + _channels(mean, pixels.device)
    return pictures.clamp(0, 1).permute(0, 2, 3, 1).numpy()


@functools.lru_cache(maxsize=64)
def _channels(values: Colour, device: torch.device) -> Tensor:
    """float32 (1, 3, 1, 1), made once for each device: making it there anew would wait for the device every time."""
    return torch.tensor(values, dtype=torch.float32, device=device).view(1, 3, 1, 1)


class BatchedAugment:
    """The batched engine: uint8 (B, H, W, 3) and a key an image -> normalised float32 (B, 3, H, W)."""

    def __init__(self, augmentation: Sequence[Transform], mean: Colour, std: Colour) -> None:
        self.steps = build_steps(augmentation)
        self.mean, self.std = mean, std

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """``keys``: int64 (B,), from ``image_keys``; they alone decide what is drawn."""
        if not self.steps:
            return normalise(images, self.mean, self.std)
        x = images.permute(0, 3, 1, 2).float()
        mean = 255 * _channels(self.mean, x.device)
        geometry: Tensor | None = None
        for number, (p, step) in enumerate(self.steps):
            u = uniform(keys, number, 1 + step.draws)
            on = u[:, 0] < p
            if hasattr(step, "matrix"):
                identity = torch.eye(3, device=x.device)
                matrix = torch.where(on.view(-1, 1, 1), step.matrix(u[:, 1:], x.shape[-1]), identity)
                geometry = matrix if geometry is None else geometry @ matrix
                continue
            x, geometry = _resample(x, geometry), None
            x = step.pixels(x, u[:, 1:], on, mean)
        x = _resample(x, geometry)
        return (x - mean) / (255 * _channels(self.std, x.device))


def _resample(x: Tensor, matrix: Tensor | None) -> Tensor:
    """Each image of ``x`` (B, 3, H, W) seen through its ``matrix`` (B, 3, 3), in pixels from the centre."""
    if matrix is None:
        return x
    half = (x.shape[3] - 1) / 2  # pixels from the centre to the border; images are square
    theta = matrix[:, :2].clone()
    theta[:, :, 2] /= half  # turn and scale have no unit, so only the shift changes: to shares of half the side
    # Corners aligned: the border mirrors about the middle of its pixel, which is OpenCV's BORDER_REFLECT_101.
    grid = F.affine_grid(theta, list(x.shape), align_corners=True)
    return F.grid_sample(x, grid, padding_mode="reflection", align_corners=True)


def albumentations_pipeline(augmentation: Sequence[Transform], mean: Colour, std: Colour) -> A.Compose:
    """The reference engine: call ``set_random_seed`` with the image's key, then ``pipeline(image=uint8 (H, W, 3))``."""
    import os

    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    import albumentations as A

    fill = [round(255 * value) for value in mean]
    steps = [step.reference(p, fill) for p, step in build_steps(augmentation)]
    return A.Compose([*steps, A.Normalize(mean, std, max_pixel_value=255.0)])


def image_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """int64 (B,): one key for each image ``indices`` (B,) in this run and epoch."""
    return _mix(_mix(_mix(torch.full_like(indices, seed)) + epoch) + indices)


def uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """float32 (B, count) in [0, 1): numbers that depend on the key, the ``stream`` and their place alone."""
    places = torch.arange(count, device=keys.device) + (stream << 32)
    bits = _mix(keys[:, None] + _mix(places)[None, :])
    return ((bits >> 40) & 0xFFFFFF).float() / (1 << 24)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64, whose products wrap around as unsigned ones do."""
    x = x + -7046029254386353131  # 0x9E3779B97F4A7C15
    x = (x ^ _shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ _shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ _shift(x, 31)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical shift to the right (``>>`` of a signed number would copy its sign)."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)
