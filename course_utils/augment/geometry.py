"""Geometric transforms of batches. Each gives a 3x3 matrix per image, so that consecutive ones need one resampling.

The annotated fields of a class are its settings. ``randoms`` is how many random numbers ``u``, 0 to 1, an image needs
besides the one that decides whether the transform is applied. ``border``: ``padding_mode`` of ``grid_sample``, where a
transform looks outside the image.
"""
import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class HorizontalFlip:
    """Mirror left and right."""

    axes = (3,)  # of (B, 3, H, W)
    randoms, border = 0, None

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
    randoms, border = 0, None

    def matrix(self, u: Tensor, size: int) -> Tensor:
        return _scaling(u, 1 / self.scale, 1 / self.scale)


@dataclass(frozen=True)
class Affine:
    """Rotate and scale about the center, shear, then shift by whole pixels, as Albumentations 2; black outside."""

    rotate: float = 0.0  # largest angle, degrees
    shear: float = 0.0  # largest shear angle along x, degrees
    shift: float = 0.0  # largest shift along each axis, fraction of the image's side
    scale: float = 0.0  # largest change of scale: 0.1 is 0.9 to 1.1
    randoms, border = 5, "zeros"

    def matrix(self, u: Tensor, size: int) -> Tensor:
        """(B, 3, 3): the inverse of shift . shear . rotation . scale."""
        u = 2 * u - 1
        angle, scale = -u[:, 0] * math.radians(self.rotate), 1 + u[:, 1] * self.scale
        shift = (u[:, 2:4] * self.shift * size).trunc()
        shear = torch.tan(u[:, 4] * math.radians(self.shear))
        cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
        inverse = torch.stack([cos, sin + cos * shear, -sin, cos - sin * shear], 1).view(-1, 2, 2)
        out = _scaling(u, 1, 1)
        out[:, :2, :2], out[:, :2, 2:] = inverse, -inverse @ shift[:, :, None]
        return out


@dataclass(frozen=True)
class ShiftScaleRotate(Affine):
    """Rotate and scale about the center, then shift by whole pixels; reflected at the border."""

    rotate: float = 45.0  # largest angle, degrees; the defaults are Albumentations' own
    shift: float = 0.0625  # largest shift, fraction of the image's side (at 32 pixels: below 2, so 1)
    scale: float = 0.1  # largest change of scale
    border = "reflection"


@dataclass(frozen=True)
class Resize:
    """The whole image at another size."""

    size: int = 96  # pixels, side of the result
    randoms, border = 0, None

    def matrix(self, u: Tensor, size: int) -> Tensor:
        return _scaling(u, size / self.size, size / self.size)


@dataclass(frozen=True)
class RandomResizedCrop:
    """A random part of the image, resized, as torchvision's transform (Szegedy et al. 2014, arXiv:1409.4842): the first
    of ten trials that lies inside the image, in whole pixels, else the whole image.
    """

    size: int = 96  # pixels, side of the result
    area: float = 0.08  # smallest fraction of the image's area
    ratio: float = 4 / 3  # largest aspect ratio, width / height; the smallest is its inverse
    randoms, border = 22, None  # two for the place, ten for the areas, ten for the aspect ratios

    def matrix(self, u: Tensor, size: int) -> Tensor:
        place, area, ratio = u.split([2, 10, 10], 1)
        area = size * size * (self.area + (1 - self.area) * area)
        ratio = torch.exp((2 * ratio - 1) * math.log(self.ratio))
        sides = torch.stack([(area * ratio).sqrt().round(), (area / ratio).sqrt().round()], 1)  # (B, 2, trials), pixels
        fits = (sides <= size).all(1)
        first = fits.int().argmax(1).view(-1, 1, 1).expand(-1, 2, 1)  # trial that fits
        side = torch.where(fits.any(1, keepdim=True), sides.gather(2, first)[..., 0], size)  # (B, 2): width, height
        corner = (place * (size - side + 1)).floor()  # (B, 2): left, top
        out = _scaling(u, *(side / self.size).unbind(1))
        out[:, :2, 2] = corner + side / 2 - size / 2
        return out


RESIZING = (Resize, RandomResizedCrop)  # change the size, so they apply to every image


def _scaling(u: Tensor, x: float | Tensor, y: float | Tensor) -> Tensor:
    """(B, 3, 3) for the images of ``u`` (B, ...): both axes multiplied, by a number or each by its own (B,)."""
    out = torch.zeros(len(u), 3, 3, device=u.device)
    out[:, 0, 0], out[:, 1, 1], out[:, 2, 2] = x, y, 1
    return out
