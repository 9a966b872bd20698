"""Transforms of geometry: each is a ``matrix`` an image, so that neighbouring ones become one resampling."""
from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

if TYPE_CHECKING:
    import albumentations as A


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


def _scaled(u: Tensor, x: float, y: float) -> Tensor:
    """(B, 3, 3) for the images that ``u`` (B, ...) belongs to: both axes multiplied."""
    out = torch.zeros(len(u), 3, 3, device=u.device)
    out[:, 0, 0], out[:, 1, 1], out[:, 2, 2] = x, y, 1
    return out
