"""Geometric transforms of batches. Each gives a 3x3 matrix per image, so that consecutive ones need one resampling.

The fields of a class are its settings. ``randoms`` is how many random numbers an image needs besides the one that
decides whether the transform is applied. ``border``: ``padding_mode`` of ``grid_sample`` (None: never looks outside).
"""
import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right."""

    axes: ClassVar[tuple[int, ...]] = (3,)  # of (B, 3, H, W)
    randoms: ClassVar[int] = 0
    border: ClassVar[str | None] = None

    def matrix(self, u: Tensor, size: int) -> Tensor:
        """(B, 3, 3): from a pixel of the result to its place in the input, in pixels from the center."""
        return _scaling(u, -1 if 3 in self.axes else 1, -1 if 2 in self.axes else 1)

    def pixels(self, x: Tensor, u: Tensor, apply: Tensor, mean: Tensor) -> Tensor:
        """The same without resampling: ``x`` (B, 3, H, W), flipped where ``apply`` (B,) is true."""
        return torch.where(apply.view(-1, 1, 1, 1), x.flip(self.axes), x)


class VerticalFlip(HorizontalFlip):
    """Mirror top and bottom."""

    axes = (2,)


class FlipBoth(HorizontalFlip):
    """Mirror in both directions: a rotation by 180 degrees."""

    axes = (3, 2)


@dataclass(frozen=True)
class EnlargeCrop:
    """Enlarge and crop the center."""

    scale: float = 1.2  # factor of the side
    randoms: ClassVar[int] = 0
    border: ClassVar[str | None] = None

    def matrix(self, u: Tensor, size: int) -> Tensor:
        return _scaling(u, 1 / self.scale, 1 / self.scale)


@dataclass(frozen=True)
class Affine:
    """Rotate and scale about the center, shear, then shift; bilinear, black outside.

    As Albumentations 2 does it: the shift is truncated to whole pixels, one scale for both axes.
    """

    rotate: float = 0.0  # largest angle, degrees
    shear: float = 0.0  # largest shear angle along x, degrees
    shift: float = 0.0  # largest shift along each axis, fraction of the image's side
    scale: float = 0.0  # largest change of scale: 0.1 is 0.9 to 1.1
    randoms: ClassVar[int] = 5
    border: ClassVar[str | None] = "zeros"

    def matrix(self, u: Tensor, size: int) -> Tensor:
        """(B, 3, 3): the inverse of shift . shear . rotation . scale."""
        u = 2 * u - 1
        angle, scale = -u[:, 0] * math.radians(self.rotate), 1 + u[:, 1] * self.scale
        shift = (u[:, 2:4] * self.shift * size).trunc()
        shear = torch.tan(u[:, 4] * math.radians(self.shear))
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        inverse = torch.stack([torch.stack([cos, sin + cos * shear], 1), torch.stack([-sin, cos - sin * shear], 1)], 1)
        out = torch.zeros(len(u), 3, 3, device=u.device)
        out[:, :2, :2], out[:, 2, 2] = inverse, 1
        out[:, :2, 2:] = -inverse @ shift[:, :, None]
        return out


@dataclass(frozen=True)
class ShiftScaleRotate(Affine):
    """Rotate and scale about the center, then shift; bilinear, reflected at the border."""

    rotate: float = 45.0  # largest angle, degrees; the defaults are Albumentations' own
    shift: float = 0.0625  # largest shift, fraction of the image's side (at 32 pixels: below 2, so 1)
    scale: float = 0.1  # largest change of scale
    border: ClassVar[str | None] = "reflection"


@dataclass(frozen=True)
class Resize:
    """The whole image at another size, bilinear."""

    size: int = 96  # pixels, side of the result
    randoms: ClassVar[int] = 0
    border: ClassVar[str | None] = None

    def matrix(self, u: Tensor, size: int) -> Tensor:
        return _scaling(u, size / self.size, size / self.size)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random crop of 8 % to 100 % of the area and aspect ratio 3:4 to 4:3, resized; bilinear.

    As torchvision's transform of that name (Szegedy et al. 2014, arXiv:1409.4842): the first of ten trials that lies
    inside the image, in whole pixels, else the whole image.
    """

    size: int = 96  # pixels, side of the result
    area: float = 0.08  # smallest fraction of the image's area
    ratio: float = 4 / 3  # largest aspect ratio, width / height; the smallest is its inverse
    TRIALS: ClassVar[int] = 10
    randoms: ClassVar[int] = 2 * TRIALS + 2
    border: ClassVar[str | None] = None

    def matrix(self, u: Tensor, size: int) -> Tensor:
        width, height = self._crop_size(u[:, 2:], size)
        out = torch.zeros(len(u), 3, 3, device=u.device)
        out[:, 2, 2] = 1
        for axis, side in enumerate((width, height)):
            first = (u[:, axis] * (size - side + 1)).floor()
            out[:, axis, axis], out[:, axis, 2] = side / self.size, first + side / 2 - size / 2
        return out

    def _crop_size(self, u: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Width and height in pixels, each (B,), of the first trial that fits."""
        area = size * size * (self.area + (1 - self.area) * u[:, :self.TRIALS])
        ratio = torch.exp((2 * u[:, self.TRIALS:] - 1) * math.log(self.ratio))
        sides = torch.stack([(area * ratio).sqrt().round(), (area / ratio).sqrt().round()], 1)  # (B, 2, trials)
        fits = (sides <= size).all(1)
        first = fits.int().argmax(1)
        chosen = sides.gather(2, first.view(-1, 1, 1).expand(-1, 2, 1))[..., 0]
        return tuple(torch.where(fits.any(1, keepdim=True), chosen, size).unbind(1))


RESIZING = (Resize, RandomResizedCrop)  # change the size, so they apply to every image


def _scaling(u: Tensor, x: float, y: float) -> Tensor:
    """(B, 3, 3) for the images of ``u`` (B, ...): both axes multiplied."""
    out = torch.zeros(len(u), 3, 3, device=u.device)
    out[:, 0, 0], out[:, 1, 1], out[:, 2, 2] = x, y, 1
    return out
