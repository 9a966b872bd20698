"""Transforms of pixels: colours and holes."""
from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from course_utils.errors import CourseError

if TYPE_CHECKING:
    import albumentations as A

LUMA = (0.299, 0.587, 0.114)  # brightness of red, green and blue, ITU-R 601


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
        down = (rows >= top) & (rows < top + self.size) & on.view(-1, 1, 1, 1)
        across = (columns >= left) & (columns < left + self.size)
        return x.lerp(mean.round(), down.float() * across.float())  # by 0 or 1: in half of torch.where's time

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
        grey = _constant(LUMA * 3, x.device).view(3, 3)  # every channel becomes the same
        matrix = torch.where(on.view(-1, 1, 1), grey, torch.eye(3, device=x.device))
        return torch.bmm(matrix, x.flatten(2)).view(x.shape)

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
        weights = _constant(LUMA, x.device)
        ranges = zip(*map(self._range, (self.brightness, self.contrast, self.saturation)))
        low, high = (_constant(values, x.device) for values in ranges)
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
    across = _constant((0.0, -1.0, 1.0, 1.0, 0.0, -1.0, -1.0, 1.0, 0.0), turn.device).view(3, 3) / 3**0.5
    return torch.cos(angle) * (torch.eye(3, device=turn.device) - along) + along + torch.sin(angle) * across


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


def per_channel(values: tuple[float, float, float], like: Tensor) -> Tensor:
    """``values`` as float32 (1, 3, H, W), of the size, memory layout and device of ``like`` (B, 3, H, W).

    Full-sized, since broadcasting over the three innermost numbers takes ten times as long; in the same layout, since
    mixing two takes three times as long; and made only once, since making it anew would wait for the device.
    """
    layout = torch.contiguous_format if like.is_contiguous() else torch.channels_last
    return _planes(values, *like.shape[2:], layout, like.device)


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """``values`` as float32 there, made only once: each copy to a GPU would be a wait."""
    return torch.tensor(values, dtype=torch.float32, device=device)


@functools.lru_cache(maxsize=64)
def _planes(values: tuple[float, float, float], height: int, width: int, layout: torch.memory_format,
            device: torch.device) -> Tensor:
    planes = torch.tensor(values, dtype=torch.float32).view(1, 3, 1, 1).expand(1, 3, height, width)
    return planes.contiguous(memory_format=layout).to(device)
