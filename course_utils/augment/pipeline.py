"""The batched engine: augmentation of whole uint8 batches on any device.

Consecutive geometric steps become one matrix per image and one ``grid_sample``. Every random number is a function of
(seed, epoch, image), whatever the batch and device: SplitMix64 (Steele, Lea, Flood 2014) as a hash of a counter.
"""
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from course_utils.augment.color import CoarseDropout, channel_planes
from course_utils.augment.geometry import RESIZING
from course_utils.augment.transforms import build_steps
from course_utils.config import Transform
from course_utils.errors import CourseError

Color = tuple[float, float, float]  # RGB, 0 to 1
EXPANSION_STREAM = 1000  # of random numbers; smaller ones belong to the steps of the augmentation


def normalize(images: Tensor, mean: Color, std: Color) -> Tensor:
    """(B, H, W, 3), 0 to 255 -> float32 (B, 3, H, W), channels_last: (x / 255 - mean) / std.

    ``images`` is uint8, or float32 that may be overwritten.
    """
    x = images.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)  # one layout: 3x as fast
    offset = channel_planes(tuple(-m / s for m, s in zip(mean, std)), x)
    return torch.addcmul(offset, x, channel_planes(tuple(1 / (255 * s) for s in std), x), out=x)


def denormalize(x: Tensor, mean: Color, std: Color) -> np.ndarray:
    """Normalized (B, 3, H, W) -> images to show: float32 (B, H, W, 3), 0 to 1."""
    pixels = x.detach().cpu().float()
    images = pixels * channel_planes(tuple(std), pixels) + channel_planes(tuple(mean), pixels)
    return images.clamp(0, 1).permute(0, 2, 3, 1).numpy()


class BatchAugment:
    """uint8 (B, H, W, 3) and a key per image -> augmented, normalized float32 (B, 3, H, W), channels_last."""

    def __init__(self, augmentation: Sequence[Transform], mean: Color, std: Color,
                 expansion: Sequence[Transform] = ()) -> None:
        self.steps, self.expansion = build_steps(augmentation), [step for _, step in build_steps(expansion)]
        self.mean, self.std = mean, std
        if any(isinstance(step, RESIZING) for step in self.expansion):
            raise CourseError("A transform of the expansion must not change the size: the other items keep theirs.")

    def __call__(self, images: Tensor, keys: Tensor, transform_ids: Tensor | None = None) -> Tensor:
        """``keys``: int64 (B,), from ``image_keys``; they decide all random numbers.

        ``transform_ids``: int64 (B,), ascending, on the CPU: 0 plain, k changed by the k-th transform of the expansion.
        """
        x = images.permute(0, 3, 1, 2).float()
        if self.expansion:
            self._expand(x, keys, transform_ids)
        return normalize(self._apply_steps(x, keys).permute(0, 2, 3, 1), self.mean, self.std)

    def output_size(self, size: int) -> int:
        """Side of the results, in pixels, for images of ``size`` x ``size``. Raises for a hole larger than these."""
        for step in (*self.expansion, *(step for _, step in self.steps)):
            if isinstance(step, CoarseDropout) and step.size > size:
                raise CourseError(f"coarse_dropout size {step.size}: larger than the image ({size}x{size}).")
            size = step.size if isinstance(step, RESIZING) else size
        return size

    def magnification(self, keys: Tensor, size: int) -> Tensor:
        """float32 (B,): by which factor objects appear larger than in images of ``size`` pixels, in pixels."""
        factor = torch.ones(len(keys), device=keys.device)
        for number, (_, step) in enumerate(self.steps):
            if hasattr(step, "matrix"):
                factor /= torch.linalg.det(self._matrix(number, keys, size)).abs().sqrt()
                size = step.size if isinstance(step, RESIZING) else size
        return factor

    def _matrix(self, number: int, keys: Tensor, size: int) -> Tensor:
        """(B, 3, 3): the geometric step ``number`` for images of ``size`` pixels, the identity where p skips it."""
        p, step = self.steps[number]
        u = uniform(keys, number, 1 + step.randoms)
        return torch.where((u[:, 0] < p).view(-1, 1, 1), step.matrix(u[:, 1:], size), torch.eye(3, device=u.device))

    def _apply_steps(self, x: Tensor, keys: Tensor) -> Tensor:
        """Every step on its random part of the images; ``size`` is the side of the result so far, in pixels."""
        geometry, border, size = None, None, x.shape[-1]
        for number, (p, step) in enumerate(self.steps):
            if not hasattr(step, "matrix"):
                x, geometry, border = _resample(x, geometry, border, size), None, None
                u = uniform(keys, number, 1 + step.randoms)
                x = step.pixels(x, u[:, 1:], u[:, 0] < p, 255 * channel_planes(self.mean, x))
                continue
            if border and step.border not in (None, border):
                x, geometry = _resample(x, geometry, border, size), None
            matrix = self._matrix(number, keys, size)
            geometry, border = matrix if geometry is None else geometry @ matrix, step.border or border
            size = step.size if isinstance(step, RESIZING) else size
        return _resample(x, geometry, border, size)

    def _expand(self, x: Tensor, keys: Tensor, transform_ids: Tensor) -> None:
        """Change each image in place by the transform of its id."""
        ends = torch.searchsorted(transform_ids, torch.arange(len(self.expansion) + 1), right=True).tolist()
        mean = 255 * channel_planes(self.mean, x)
        randoms = uniform(keys, EXPANSION_STREAM, max(step.randoms for step in self.expansion))
        for step, start, end in zip(self.expansion, ends, ends[1:]):
            rows = slice(start, end)
            u = randoms[rows, :step.randoms]
            if hasattr(step, "pixels"):
                x[rows] = step.pixels(x[rows], u, u.new_ones(len(u), dtype=torch.bool), mean)
            else:
                x[rows] = _resample(x[rows], step.matrix(u, x.shape[-1]), step.border, x.shape[-1])


def _resample(x: Tensor, matrix: Tensor | None, border: str | None, size: int) -> Tensor:
    """Each image of ``x`` (B, 3, H, H) seen through its ``matrix`` (B, 3, 3): (B, 3, ``size``, ``size``), bilinear."""
    if matrix is None:
        return x
    theta = matrix[:, :2] / ((x.shape[3] - 1) / 2)  # from pixels to fractions of half the side,
    theta[:, :, :2] *= (size - 1) / 2  # and back for the result
    # The grid of F.affine_grid in a ninth of its time: the sum of a part that depends on the column and one on the row.
    # align_corners=True: "reflection" mirrors about the center of the outermost pixel, as OpenCV's BORDER_REFLECT_101.
    places = torch.linspace(-1, 1, size, device=x.device)
    across = theta[:, :, 0, None] * places  # (B, 2, size)
    down = theta[:, :, 1, None] * places + theta[:, :, 2, None]
    grid = (across[:, :, None, :] + down[:, :, :, None]).permute(0, 2, 3, 1)  # (B, size, size, 2)
    return F.grid_sample(x, grid, padding_mode=border or "border", align_corners=True)


def image_keys(seed: int, epoch: int, indices: Tensor) -> Tensor:
    """int64 (B,): one key per image of ``indices`` (B,) in this run and epoch."""
    return _mix(_mix(_mix(torch.full_like(indices, seed)) + epoch) + indices)


def uniform(keys: Tensor, stream: int, count: int) -> Tensor:
    """float32 (B, count) in [0, 1): random numbers that depend on the key, the ``stream`` and their position alone."""
    positions = torch.arange(count, device=keys.device) + (stream << 32)
    bits = _mix(keys[:, None] + _mix(positions)[None, :])
    return ((bits >> 40) & 0xFFFFFF).float() / (1 << 24)


def _mix(x: Tensor) -> Tensor:
    """SplitMix64's finalizer on int64, whose products wrap around as unsigned ones do."""
    def shift(x: Tensor, bits: int) -> Tensor:  # >> of a signed number alone would copy its sign
        return (x >> bits) & ((1 << (64 - bits)) - 1)

    x = x + -7046029254386353131  # 0x9E3779B97F4A7C15
    x = (x ^ shift(x, 30)) * -4658895280553007687  # 0xBF58476D1CE4E5B9
    x = (x ^ shift(x, 27)) * -7723592293110705685  # 0x94D049BB133111EB
    return x ^ shift(x, 31)
