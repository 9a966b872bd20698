"""Transforms of pixel values of batches: color and holes. ``geometry.py`` describes what all transforms share."""
import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in the brightness, ITU-R BT.601


@dataclass(frozen=True)
class CoarseDropout:
    """Cover one square hole inside the image with the data set's mean color (Cutout, DeVries & Taylor 2017)."""

    size: int = 16  # pixels, side of the hole
    randoms = 2

    def pixels(self, x: Tensor, u: Tensor, apply: Tensor, mean: Tensor) -> Tensor:
        """``x`` (B, 3, H, W), 0 to 255, changed where ``apply`` (B,) is true; ``mean``: the color, like ``x``."""
        side = x.shape[3]
        corner = (u * (side - self.size + 1)).floor()  # (B, 2): top, left
        place = torch.arange(side, device=x.device) - corner[:, :, None]  # (B, 2, side), counted from the hole
        rows, columns = ((place >= 0) & (place < self.size)).float().unbind(1)
        hole = (rows * apply[:, None])[:, None, :, None] * columns[:, None, None, :]
        return x.lerp(mean.round(), hole)  # weights 0 or 1; half the time of torch.where


@dataclass(frozen=True)
class ToGray:
    """Replace the color by its brightness, still in three channels."""

    randoms = 0

    def pixels(self, x: Tensor, u: Tensor, apply: Tensor, mean: Tensor) -> Tensor:
        gray = _constant(LUMA * 3, x.device).view(3, 3)  # equal rows: all channels become the same
        matrix = torch.where(apply.view(-1, 1, 1), gray, torch.eye(3, device=x.device))
        return torch.bmm(matrix, x.flatten(2)).view(x.shape)


@dataclass(frozen=True)
class ColorJitter:
    """Change brightness, contrast, saturation and hue, in this order, as torchvision's transform of that name does.

    The first three factors are uniform between ``max(0, 1 - amount)`` and ``1 + amount``.
    """

    brightness: float = 0.0  # 5: multiplied by 0 to 6, then clipped at 255
    contrast: float = 0.0
    saturation: float = 0.0
    hue: float = 0.0  # largest shift of the hue, fraction of the color circle, 0 to 0.5
    randoms = 4

    def pixels(self, x: Tensor, u: Tensor, apply: Tensor, mean: Tensor) -> Tensor:
        ranges = map(factor_range, (self.brightness, self.contrast, self.saturation))
        factors = [low + u[:, k].view(-1, 1, 1, 1) * (high - low) for k, (low, high) in enumerate(ranges)]
        before = x
        if self.brightness:
            x = (x * factors[0]).clamp(0, 255)
        if self.contrast:
            x = torch.lerp(_gray(x).mean((2, 3), keepdim=True), x, factors[1]).clamp(0, 255)
        if self.saturation:
            x = torch.lerp(_gray(x), x, factors[2]).clamp(0, 255)
        if self.hue:
            x = shift_hue(x, (2 * u[:, 3].view(-1, 1, 1) - 1) * self.hue)
        return torch.where(apply.view(-1, 1, 1, 1), x, before)


@dataclass(frozen=True)
class ColorMatrix(ColorJitter):
    """``ColorJitter`` as one matrix per image and one clip to 0..255: for moderate amounts, several times as fast.

    Two differences: the hue rotates about the gray axis and keeps the mean of the three channels, where HSV keeps the
    maximum; values beyond 0 or 255 are not clipped between the steps. The per-image engines use ``ColorJitter``.
    """

    def pixels(self, x: Tensor, u: Tensor, apply: Tensor, mean: Tensor) -> Tensor:
        weights = _constant(LUMA, x.device)
        ranges = zip(*map(factor_range, (self.brightness, self.contrast, self.saturation)))
        low, high = (_constant(values, x.device) for values in ranges)
        brightness, contrast, saturation = (low + u[:, :3] * (high - low)).unbind(1)  # each (B,)
        luma = (x.mean((2, 3)) * weights).sum(1)  # (B,): the center of the contrast
        rotation = _hue_matrix((2 * u[:, 3] - 1) * self.hue)  # (B, 3, 3); grays are unchanged
        to_gray = (1 - saturation).view(-1, 1, 1) * weights  # brightness in every channel
        matrix = (brightness * contrast).view(-1, 1, 1) * (saturation.view(-1, 1, 1) * rotation + to_gray)
        matrix = torch.where(apply.view(-1, 1, 1), matrix, torch.eye(3, device=x.device))
        offset = (brightness * (1 - contrast) * luma * apply).view(-1, 1, 1)
        # Planar, as grid_sample leaves images: three long rows multiply twice as fast as many short ones.
        return torch.baddbmm(offset, matrix, x.flatten(2)).clamp_(0, 255).view(x.shape)


def factor_range(amount: float) -> tuple[float, float]:
    """Smallest and largest factor of a jitter of this amount."""
    return max(0.0, 1 - amount), 1 + amount


def _hue_matrix(turn: Tensor) -> Tensor:
    """(B, 3, 3): rotation of RGB about the gray axis (Rodrigues' formula) by ``turn`` (B,), fractions of the circle."""
    angle = (2 * math.pi * turn).view(-1, 1, 1)
    along = torch.full((3, 3), 1 / 3, device=turn.device)
    across = _constant((0.0, -1.0, 1.0, 1.0, 0.0, -1.0, -1.0, 1.0, 0.0), turn.device).view(3, 3) / 3**0.5
    return torch.cos(angle) * (torch.eye(3, device=turn.device) - along) + along + torch.sin(angle) * across


def _gray(x: Tensor) -> Tensor:
    """(B, 1, H, W): brightness."""
    return (x * channel_planes(LUMA, x)).sum(1, keepdim=True)


def shift_hue(x: Tensor, turn: Tensor) -> Tensor:
    """``x`` (B, 3, H, W), 0 to 255, with its hue in HSV shifted by ``turn`` (B, 1, 1), fractions of the circle."""
    value = x.amax(1)
    spread = value - x.amin(1)
    red, green, blue = x.unbind(1)
    safe = spread.clamp_min(1e-6)
    sextant = torch.where(value == red, (green - blue) / safe,
                          torch.where(value == green, 2 + (blue - red) / safe, 4 + (red - green) / safe))
    place = [(shift + sextant + 6 * turn) % 6 for shift in (5, 3, 1)]  # Smith 1978, in the form without cases
    return torch.stack([value - spread * torch.minimum(k, 4 - k).clamp(0, 1) for k in place], 1)


def channel_planes(values: tuple[float, float, float], like: Tensor) -> Tensor:
    """One value per channel as float32 (1, 3, H, W), of the size, memory layout and device of ``like`` (B, 3, H, W)."""
    # Broadcasting would take ten times as long, mixing two layouts three times.
    layout = torch.contiguous_format if like.is_contiguous() else torch.channels_last
    return _planes(values, *like.shape[2:], layout, like.device)


@functools.lru_cache(maxsize=64)  # a new copy each time would synchronize the device
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.float32, device=device)


@functools.lru_cache(maxsize=64)
def _planes(values: tuple[float, float, float], height: int, width: int, layout: torch.memory_format,
            device: torch.device) -> Tensor:
    planes = torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, height, width)
    return planes.contiguous(memory_format=layout).to(device)
