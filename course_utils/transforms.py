"""The transforms that an augmentation is made of, each for both engines.

A class's fields are its settings. For the batched engine it has ``matrix`` (geometry) or ``pixels`` (colour, holes),
and ``draws``, how many random numbers an image needs; ``reference`` builds the same for Albumentations.
"""
from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from course_utils.errors import CourseError, unknown
from course_utils.experiment import Transform

if TYPE_CHECKING:
    import albumentations as A


LUMA = (0.299, 0.587, 0.114)  # brightness of red, green and blue, ITU-R 601


class _Flip:
    """Mirroring; its kinds differ in their axes alone."""

    axes: ClassVar[tuple[int, ...]]  # of (B, 3, H, W)
    draws: ClassVar[int] = 0  # random numbers an image needs, besides the one that decides on p
    border: ClassVar[str | None] = None  # what grid_sample takes beyond the border; None: nothing is taken from there

    def matrix(self, u: Tensor, size: int) -> Tensor:
        return _scaled(u, -1 if 3 in self.axes else 1, -1 if 2 in self.axes else 1)

    def pixels(self, x: Tensor, u: Tensor, on: Tensor, mean: Tensor) -> Tensor:
        return torch.where(on.view(-1, 1, 1, 1), x.flip(self.axes), x)

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A

        flips = {3: A.HorizontalFlip(p=1), 2: A.VerticalFlip(p=1)}
        return A.Sequential([flips[axis] for axis in self.axes], p=p)


@dataclass(frozen=True)
class HorizontalFlip(_Flip):
    """Mirror left and right."""

    axes: ClassVar[tuple[int, ...]] = (3,)


@dataclass(frozen=True)
class VerticalFlip(_Flip):
    """Mirror top and bottom."""

    axes: ClassVar[tuple[int, ...]] = (2,)


@dataclass(frozen=True)
class FlipBoth(_Flip):
    """Mirror left and right, top and bottom: half a turn."""

    axes: ClassVar[tuple[int, ...]] = (3, 2)


@dataclass(frozen=True)
class EnlargeCrop:
    """Enlarge and cut the middle out."""

    scale: float = 1.2  # of the side
    draws: ClassVar[int] = 0
    border: ClassVar[str | None] = None

    def matrix(self, u: Tensor, size: int) -> Tensor:
        return _scaled(u, 1 / self.scale, 1 / self.scale)

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A

        return A.Affine(scale=(self.scale, self.scale), p=p, strict=True)


@dataclass(frozen=True)
class Affine:
    """Rotate and scale about the centre, shear, then shift; bilinear; what comes from outside is black.

    As Albumentations 2 does it: the shift is cut to whole pixels, one scale serves both axes.
    """

    rotate: float = 0.0  # largest angle, degrees
    shear: float = 0.0  # largest angle by which upright lines lean, degrees
    shift: float = 0.0  # largest shift along each axis, share of the image's side
    scale: float = 0.0  # largest change of scale, so 0.1 is 0.9 to 1.1
    draws: ClassVar[int] = 5
    border: ClassVar[str | None] = "zeros"

    def matrix(self, u: Tensor, size: int) -> Tensor:
        """(B, 3, 3), from a pixel of the result to its place in the input, in pixels from the centre."""
        u = 2 * u - 1
        angle, scale = -u[:, 0] * math.radians(self.rotate), 1 + u[:, 1] * self.scale
        shift = (u[:, 2:4] * self.shift * size).trunc()
        lean = torch.tan(u[:, 4] * math.radians(self.shear))
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        undo = torch.stack([torch.stack([cos, sin + cos * lean], 1), torch.stack([-sin, cos - sin * lean], 1)], 1)
        out = torch.zeros(len(u), 3, 3, device=u.device)
        out[:, :2, :2], out[:, 2, 2] = undo, 1
        out[:, :2, 2:] = -undo @ shift[:, :, None]
        return out

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A
        import cv2

        sides = dict.fromkeys("xy", (-self.shift, self.shift))
        modes = {"zeros": cv2.BORDER_CONSTANT, "reflection": cv2.BORDER_REFLECT_101}
        return A.Affine(scale=(1 - self.scale, 1 + self.scale), rotate=(-self.rotate, self.rotate), p=p,
                        shear={"x": (-self.shear, self.shear), "y": (0.0, 0.0)}, translate_percent=sides,
                        keep_ratio=True, border_mode=modes[self.border], strict=True)


@dataclass(frozen=True)
class ShiftScaleRotate(Affine):
    """Rotate and scale about the centre, then shift; bilinear, mirrored at the border."""

    rotate: float = 45.0  # largest angle, degrees
    shift: float = 0.0625  # largest shift, share of the image's side (at 32 pixels: below 2, so 1)
    scale: float = 0.1  # largest change of scale
    border: ClassVar[str | None] = "reflection"


@dataclass(frozen=True)
class Resize:
    """The whole image at another size, bilinear."""

    size: int = 96  # pixels, side of the result
    draws: ClassVar[int] = 0
    border: ClassVar[str | None] = None

    def matrix(self, u: Tensor, size: int) -> Tensor:
        return _scaled(u, size / self.size, size / self.size)

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A

        return A.Resize(self.size, self.size, p=p)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, of 8 % to all of its area and 3:4 to 4:3 in shape, resized; bilinear.

    As torchvision's transform of that name (Szegedy et al. 2014, arXiv:1409.4842): of ten tries the first that lies in
    the image, in whole pixels, else the whole image.
    """

    size: int = 96  # pixels, side of the result
    area: float = 0.08  # smallest share of the image's area
    ratio: float = 4 / 3  # largest width over height; the smallest is its inverse
    TRIES: ClassVar[int] = 10
    draws: ClassVar[int] = 2 * TRIES + 2
    border: ClassVar[str | None] = None

    def matrix(self, u: Tensor, size: int) -> Tensor:
        width, height = self._sides(u[:, 2:], size)
        out = torch.zeros(len(u), 3, 3, device=u.device)
        out[:, 2, 2] = 1
        for axis, side in enumerate((width, height)):
            first = (u[:, axis] * (size - side + 1)).floor()
            out[:, axis, axis], out[:, axis, 2] = side / self.size, first + side / 2 - size / 2
        return out

    def _sides(self, u: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Width and height in pixels, each (B,), of the first try that fits."""
        area = size * size * (self.area + (1 - self.area) * u[:, :self.TRIES])
        shape = torch.exp((2 * u[:, self.TRIES:] - 1) * math.log(self.ratio))
        sides = torch.stack([(area * shape).sqrt().round(), (area / shape).sqrt().round()], 1)  # (B, 2, tries)
        fits = (sides <= size).all(1)
        first = fits.int().argmax(1)
        chosen = sides.gather(2, first.view(-1, 1, 1).expand(-1, 2, 1))[..., 0]
        return tuple(torch.where(fits.any(1, keepdim=True), chosen, size).unbind(1))

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A

        return A.RandomResizedCrop((self.size, self.size), (self.area, 1.0), (1 / self.ratio, self.ratio), p=p)


RESIZING = (Resize, RandomResizedCrop)  # what gives images of another size, and so must be given to all of them


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
        return torch.where(on.view(-1, 1, 1, 1), _grey(x), x)

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A

        return A.ToGray(p=p, strict=True)


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, as torchvision's transform of that name does.

    The first three factors are drawn evenly from ``max(0, 1 - amount)`` to ``1 + amount``.
    """

    brightness: float = 0.0  # 5 multiplies by 0 to 6, and all beyond 255 is white
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # largest turn of the colour circle, share of it, 0 to 0.5
    draws: ClassVar[int] = 4

    def pixels(self, x: Tensor, u: Tensor, on: Tensor, mean: Tensor) -> Tensor:
        before, factor = x, []
        for k, amount in enumerate((self.brightness, self.contrast, self.saturation)):
            low, high = self._range(amount)
            factor.append(low + u[:, k].view(-1, 1, 1, 1) * (high - low))
        if self.brightness:
            x = (x * factor[0]).clamp(0, 255)
        if self.contrast:
            x = torch.lerp(_grey(x).mean((2, 3), keepdim=True), x, factor[1]).clamp(0, 255)
        if self.saturation:
            x = torch.lerp(_grey(x), x, factor[2]).clamp(0, 255)
        if self.hue:
            x = _turn_hue(x, (2 * u[:, 3].view(-1, 1, 1) - 1) * self.hue)
        return torch.where(on.view(-1, 1, 1, 1), x, before)

    @staticmethod
    def _range(amount: float) -> tuple[float, float]:
        return max(0.0, 1 - amount), 1 + amount

    def reference(self, p: float, fill: Sequence[int]) -> A.BasicTransform:
        import albumentations as A

        return A.ColorJitter(self._range(self.brightness), self._range(self.contrast), self._range(self.saturation),
                             (-self.hue, self.hue), p=p, strict=True)


@dataclass(frozen=True)
class ColorMatrix(ColorJitter):
    """``ColorJitter`` as one matrix an image and one cut to 0..255: for moderate amounts, several times as fast.

    Two things differ. The hue turns about the axis of greys and keeps the mean of the three colours, where HSV keeps
    the largest. And what passes 0 or 255 on the way is not cut before the end. The reference engine has
    ``ColorJitter`` itself.
    """

    def pixels(self, x: Tensor, u: Tensor, on: Tensor, mean: Tensor) -> Tensor:
        weights = torch.tensor(LUMA, device=x.device)
        low, high = zip(*map(self._range, (self.brightness, self.contrast, self.saturation)))
        low, high = torch.tensor(low, device=x.device), torch.tensor(high, device=x.device)
        brightness, contrast, saturation = (low + u[:, :3] * (high - low)).unbind(1)  # each (B,)
        luma = (x.mean((2, 3)) * weights).sum(1)  # (B,): it is contrast's middle
        turned = _hue_matrix((2 * u[:, 3] - 1) * self.hue)  # (B, 3, 3); greys stay what they are
        greys = (1 - saturation).view(-1, 1, 1) * weights.view(1, 1, 3)  # brightness in every channel
        matrix = (brightness * contrast).view(-1, 1, 1) * (saturation.view(-1, 1, 1) * turned + greys)
        offset = (brightness * (1 - contrast) * luma).view(-1, 1, 1)
        off = ~on.view(-1, 1, 1)
        matrix, offset = torch.where(off, torch.eye(3, device=x.device), matrix), offset.masked_fill(off, 0)
        # Channel by channel, as grid_sample leaves images: three long rows multiply twice as fast as many short ones.
        return torch.baddbmm(offset, matrix, x.flatten(2)).clamp_(0, 255).view(x.shape)


def _hue_matrix(turn: Tensor) -> Tensor:
    """(B, 3, 3): RGB turned about the axis of greys (Rodrigues' formula) by ``turn`` (B,), shares of the circle."""
    angle = (2 * math.pi * turn).view(-1, 1, 1)
    along = torch.full((3, 3), 1 / 3, device=turn.device)
    across = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=turn.device) / 3**0.5
    return torch.cos(angle) * (torch.eye(3, device=turn.device) - along) + along + torch.sin(angle) * across


def _scaled(u: Tensor, x: float, y: float) -> Tensor:
    """(B, 3, 3) for the images that ``u`` (B, ...) belongs to: both axes multiplied."""
    out = torch.zeros(len(u), 3, 3, device=u.device)
    out[:, 0, 0], out[:, 1, 1], out[:, 2, 2] = x, y, 1
    return out


def _grey(x: Tensor) -> Tensor:
    """(B, 1, H, W): brightness by the weights of ITU-R 601, as OpenCV and Pillow."""
    return (x * per_channel(LUMA, x)).sum(1, keepdim=True)


def _turn_hue(x: Tensor, turn: Tensor) -> Tensor:
    """``x`` (B, 3, H, W) with its hue in HSV moved by ``turn`` (B, 1, 1), shares of the circle."""
    value, low = x.amax(1), x.amin(1)
    spread = value - low
    red, green, blue = x.unbind(1)
    safe = spread.clamp_min(1e-6)
    sextant = torch.where(value == red, (green - blue) / safe,
                          torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe))
    place = [(shift + sextant + 6 * turn) % 6 for shift in (5, 3, 1)]  # Smith 1978, in the form without cases
    return torch.stack([value - spread * torch.minimum(k, 4 - k).clamp(0, 1) for k in place], 1)


TRANSFORMS: Mapping[str, type] = {
    "horizontal_flip": HorizontalFlip,
    "vertical_flip": VerticalFlip,
    "flip_both": FlipBoth,
    "enlarge_crop": EnlargeCrop,
    "affine": Affine,
    "shift_scale_rotate": ShiftScaleRotate,
    "resize": Resize,
    "random_resized_crop": RandomResizedCrop,
    "coarse_dropout": CoarseDropout,
    "to_gray": ToGray,
    "color_jitter": ColorJitter,
    "color_matrix": ColorMatrix,
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
        if kind in RESIZING and described.p != 1:
            raise CourseError(f"{described.name}: p = {described.p!r} must be 1, or images differ in size.")
        steps.append((described.p, kind(**described.settings)))
    return steps


def per_channel(values: tuple[float, float, float], like: Tensor) -> Tensor:
    """``values`` as float32 (1, 3, H, W), channels last, of the size and on the device of ``like`` (B, 3, H, W).

    Full-sized, since broadcasting over the three innermost numbers takes ten times as long; and made only once, since
    making it anew would wait for the device.
    """
    return _planes(values, *like.shape[2:], like.device)


@functools.lru_cache(maxsize=64)
def _planes(values: tuple[float, float, float], height: int, width: int, device: torch.device) -> Tensor:
    planes = torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, height, width)
    return planes.contiguous(memory_format=torch.channels_last).to(device)
