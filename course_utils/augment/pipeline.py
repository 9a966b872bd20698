"""One description of an augmentation, two engines that carry it out.

``variants.toml`` lists the steps, ``transforms`` knows them. ``BatchedAugment`` takes whole uint8 batches on any
device: neighbouring geometric steps become one matrix an image and one ``grid_sample``.
``albumentations_pipeline`` builds the same from Albumentations, image by image, as the reference to compare with.

Every draw is a function of (run, epoch, image): it depends on neither workers, batch nor device, and differs between
epochs. The number generator is SplitMix64 (Steele, Lea, Flood 2014), used as a hash of a counter.
"""
from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.errors import CourseError
from course_utils.config import Transform
from course_utils.augment.transforms import build_steps
from course_utils.augment.geometry import RESIZING
from course_utils.augment.color import per_channel

if TYPE_CHECKING:
    import albumentations as A

Colour = tuple[float, float, float]  # RGB, 0 to 1
EXPANSION_STREAM = 1000  # of random numbers; those below it belong to the augmentation's steps


def normalise(images: Tensor, mean: Colour, std: Colour) -> Tensor:
    """uint8 (B, H, W, 3) -> float32 (B, 3, H, W), channels last in memory, about mean 0 and deviation 1."""
    return _normalise(images.permute(0, 3, 1, 2).float(), mean, std)


def _normalise(x: Tensor, mean: Colour, std: Colour) -> Tensor:
    """(B, 3, H, W), 0 to 255, in one pass: (x / 255 - mean) / std, channels last; ``x`` may be overwritten."""
    x = x.contiguous(memory_format=torch.channels_last)  # mixed with the planes' layout it would take thrice as long
    offset = per_channel(tuple(-m / s for m, s in zip(mean, std)), x)
    return torch.addcmul(offset, x, per_channel(tuple(1 / (255 * s) for s in std), x), out=x)


def viewable(x: Tensor, mean: Colour, std: Colour) -> np.ndarray:
    """Normalised (B, 3, H, W) back to pictures: float32 (B, H, W, 3), 0 to 1."""
    pixels = x.detach().cpu().float()
    pictures = pixels * per_channel(tuple(std), pixels) + per_channel(tuple(mean), pixels)
    return pictures.clamp(0, 1).permute(0, 2, 3, 1).numpy()


class BatchedAugment:
    """The batched engine: uint8 (B, H, W, 3) and a key an image -> normalised float32 (B, 3, H, W), channels last."""

    def __init__(self, augmentation: Sequence[Transform], mean: Colour, std: Colour,
                 expansion: Sequence[Transform] = ()) -> None:
        self.steps, self.expansion = build_steps(augmentation), [step for _, step in build_steps(expansion)]
        self.mean, self.std = mean, std
        if any(isinstance(step, RESIZING) for step in self.expansion):
            raise CourseError("A transform of the expansion may not change the size: its other items keep theirs.")

    def __call__(self, images: Tensor, keys: Tensor, kinds: Tensor | None = None) -> Tensor:
        """``keys``: int64 (B,), from ``image_keys``; they alone decide what is drawn.

        ``kinds``: int64 (B,), ascending, on the CPU: 0 plain, k changed by the k-th transform of the expansion.
        """
        x = images.permute(0, 3, 1, 2).float()
        if self.expansion:
            self._expand(x, keys, kinds)
        if self.steps:
            x = self._take_steps(x, keys)
        return _normalise(x, self.mean, self.std)

    def side(self, side: int) -> int:
        """Pixels of a result's side, of images of ``side``."""
        return next((step.size for _, step in reversed(self.steps) if isinstance(step, RESIZING)), side)

    def magnification(self, keys: Tensor, side: int) -> Tensor:
        """float32 (B,): by what factor things in images of ``side`` pixels appear larger, measured in pixels."""
        factor = torch.ones(len(keys), device=keys.device)
        for number, (_, step) in enumerate(self.steps):
            if hasattr(step, "matrix"):
                factor /= torch.linalg.det(self._drawn(number, keys, side)).abs().sqrt()
                side = step.size if isinstance(step, RESIZING) else side
        return factor

    def _drawn(self, number: int, keys: Tensor, side: int) -> Tensor:
        """(B, 3, 3): what geometric step ``number`` does to images of ``side`` pixels."""
        p, step = self.steps[number]
        u = uniform(keys, number, 1 + step.draws)
        return torch.where((u[:, 0] < p).view(-1, 1, 1), step.matrix(u[:, 1:], side), torch.eye(3, device=u.device))

    def _take_steps(self, x: Tensor, keys: Tensor) -> Tensor:
        """Every step on its random share of the images; ``side`` is that of the result so far, in pixels."""
        geometry: Tensor | None = None
        border: str | None = None
        side = x.shape[-1]
        for number, (p, step) in enumerate(self.steps):
            if not hasattr(step, "matrix"):
                x, geometry, border = _resample(x, geometry, border, side), None, None
                u = uniform(keys, number, 1 + step.draws)
                x = step.pixels(x, u[:, 1:], u[:, 0] < p, self._fill(x))
                continue
            if border and step.border not in (None, border):
                x, geometry = _resample(x, geometry, border, side), None
            matrix = self._drawn(number, keys, side)
            geometry, border = matrix if geometry is None else geometry @ matrix, step.border or border
            side = step.size if isinstance(step, RESIZING) else side
        return _resample(x, geometry, border, side)

    def _expand(self, x: Tensor, keys: Tensor, kinds: Tensor) -> None:
        """Change each image in place by the one transform that its kind names."""
        ends = torch.searchsorted(kinds, torch.arange(len(self.expansion) + 1), right=True).tolist()
        drawn = uniform(keys, EXPANSION_STREAM, max(step.draws for step in self.expansion))
        for number, step in enumerate(self.expansion, 1):
            rows = slice(ends[number - 1], ends[number])
            u = drawn[rows, :step.draws]
            if hasattr(step, "pixels"):
                x[rows] = step.pixels(x[rows], u, torch.ones(len(u), dtype=torch.bool, device=u.device), self._fill(x))
            else:
                x[rows] = _resample(x[rows], step.matrix(u, x.shape[-1]), step.border)

    def _fill(self, x: Tensor) -> Tensor:
        return 255 * per_channel(self.mean, x)


def _resample(x: Tensor, matrix: Tensor | None, border: str | None, side: int | None = None) -> Tensor:
    """Each image of ``x`` (B, 3, H, W) seen through its ``matrix`` (B, 3, 3), in pixels from the centre.

    ``side``: pixels of the result's (default: as before). Images are square.
    """
    if matrix is None:
        return x
    side = side or x.shape[3]
    if len(x) == 0:
        return x.new_zeros((0, x.shape[1], side, side))
    half, half_out = (x.shape[3] - 1) / 2, (side - 1) / 2  # pixels from the centre to the outermost pixel's
    theta = matrix[:, :2] / half  # from pixels to shares of half the side, and
    theta[:, :, :2] *= half_out  # the other way for the result
    # Corners aligned: "reflection" mirrors about the middle of the outermost pixel, as OpenCV's BORDER_REFLECT_101.
    # What F.affine_grid gives, in a ninth of its time: a sum of what depends on the column and what on the row alone.
    places = torch.linspace(-1, 1, side, device=x.device)
    across = theta[:, :, 0, None] * places  # (B, 2, side)
    down = theta[:, :, 1, None] * places + theta[:, :, 2, None]
    grid = (across[:, :, None, :] + down[:, :, :, None]).permute(0, 2, 3, 1)  # (B, side, side, 2)
    return F.grid_sample(x, grid, padding_mode=border or "border", align_corners=True)


def albumentations_pipeline(augmentation: Sequence[Transform], mean: Colour, std: Colour) -> A.Compose:
    """The reference engine: call ``seed_pipeline`` with the image's key, then ``pipeline(image=uint8 (H, W, 3))``."""
    import os

    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    import albumentations as A

    fill = [round(255 * value) for value in mean]
    steps = [step.reference(p, fill) for p, step in build_steps(augmentation)]
    return A.Compose([*steps, A.Normalize(mean, std, max_pixel_value=255.0)])


def seed_pipeline(pipeline: A.Compose, key: int) -> None:
    """Let ``key`` alone decide what ``pipeline`` draws next.

    Not by its ``set_random_seed``, which seeds every transform alike: of those with one probability, an image would
    then get all or none.
    """
    pipeline.set_random_state(np.random.default_rng(key), random.Random(key))


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
