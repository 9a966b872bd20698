"""The per-image engines: the same descriptions carried out by Albumentations or by torchvision.

Both are seeded by the image's key, so that results depend on neither workers nor order. They cost ten times the time of
the batched engine; use them to compare, or for a transform that only they have.
"""
import os
import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from course_utils.augment import color, geometry
from course_utils.augment.color import factor_range
from course_utils.augment.pipeline import Color
from course_utils.augment.transforms import build_steps
from course_utils.config import Transform

if TYPE_CHECKING:
    import albumentations as A

ImagePipeline = Callable[[np.ndarray, int], np.ndarray]  # uint8 (H, W, 3) and a key -> float32 (H', W', 3), normalized


def per_image_pipeline(engine: str, augmentation: Sequence[Transform], mean: Color, std: Color) -> ImagePipeline:
    """``augmentation``, then normalization, by ``engine`` "albumentations" or "torchvision"."""
    fill = [round(255 * value) for value in mean]
    make = _by_albumentations if engine == "albumentations" else _by_torchvision
    return make(build_steps(augmentation), fill, mean, std)


def _by_albumentations(steps: Sequence[tuple[float, Any]], fill: Sequence[int], mean: Color, std: Color
                       ) -> ImagePipeline:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    import albumentations as A
    import cv2

    def flips(step: Any, p: float) -> "A.BasicTransform":
        kinds = {3: A.HorizontalFlip(p=1), 2: A.VerticalFlip(p=1)}
        return A.Sequential([kinds[axis] for axis in step.axes], p=p)

    def affine(step: geometry.Affine, p: float) -> "A.BasicTransform":
        modes = {"zeros": cv2.BORDER_CONSTANT, "reflection": cv2.BORDER_REFLECT_101}
        return A.Affine(scale=(1 - step.scale, 1 + step.scale), rotate=(-step.rotate, step.rotate), p=p,
                        shear={"x": (-step.shear, step.shear), "y": (0.0, 0.0)},
                        translate_percent=dict.fromkeys("xy", (-step.shift, step.shift)),
                        keep_ratio=True, border_mode=modes[step.border], strict=True)

    def hole(step: color.CoarseDropout, p: float) -> "A.BasicTransform":
        side = (step.size, step.size)
        return A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=side, hole_width_range=side,
                               fill=tuple(fill), p=p, strict=True)

    def jitter(step: color.ColorJitter, p: float) -> "A.BasicTransform":
        return A.ColorJitter(factor_range(step.brightness), factor_range(step.contrast), factor_range(step.saturation),
                             (-step.hue, step.hue), p=p, strict=True)

    makers = {
        geometry.HorizontalFlip: flips, geometry.VerticalFlip: flips, geometry.FlipBoth: flips,
        geometry.Affine: affine, geometry.ShiftScaleRotate: affine,
        geometry.EnlargeCrop: lambda step, p: A.Affine(scale=(step.scale, step.scale), p=p, strict=True),
        geometry.Resize: lambda step, p: A.Resize(step.size, step.size, p=p),
        geometry.RandomResizedCrop: lambda step, p: A.RandomResizedCrop(
            (step.size, step.size), (step.area, 1.0), (1 / step.ratio, step.ratio), p=p),
        color.CoarseDropout: hole, color.ColorJitter: jitter, color.ColorMatrix: jitter,
        color.ToGray: lambda step, p: A.ToGray(p=p, strict=True)}
    pipeline = A.Compose([*(makers[type(step)](step, p) for p, step in steps),
                          A.Normalize(mean, std, max_pixel_value=255.0)])

    def augment(image: np.ndarray, key: int) -> np.ndarray:
        # Not by set_random_seed, which seeds every transform alike: an image would then get all those of one
        # probability or none of them.
        pipeline.set_random_state(np.random.default_rng(key), random.Random(key))
        return pipeline(image=image)["image"]

    return augment


def _by_torchvision(steps: Sequence[tuple[float, Any]], fill: Sequence[int], mean: Color, std: Color) -> ImagePipeline:
    from torchvision.transforms import InterpolationMode, v2

    smooth = {"interpolation": InterpolationMode.BILINEAR}

    def flips(step: Any) -> Callable:
        kinds = {3: v2.RandomHorizontalFlip(1), 2: v2.RandomVerticalFlip(1)}
        return v2.Compose([kinds[axis] for axis in step.axes])

    def affine(step: geometry.Affine) -> Callable:
        scale, shear = (1 - step.scale, 1 + step.scale), (-step.shear, step.shear)
        if step.border == "zeros":
            return v2.RandomAffine(step.rotate, (step.shift, step.shift), scale, shear, **smooth)
        move = v2.RandomAffine(step.rotate, (step.shift / 2, step.shift / 2), scale, shear, **smooth)

        def reflected(x: torch.Tensor) -> torch.Tensor:  # RandomAffine has no reflection: pad to twice the side first
            return v2.CenterCrop(x.shape[-1])(move(v2.Pad(x.shape[-1] // 2, padding_mode="reflect")(x)))

        return reflected

    def hole(step: color.CoarseDropout) -> Callable:
        def erase(x: torch.Tensor) -> torch.Tensor:
            top, left = (int(torch.randint(side - step.size + 1, ())) for side in x.shape[1:])
            value = torch.tensor(fill, dtype=x.dtype).view(3, 1, 1)
            return v2.functional.erase(x, top, left, step.size, step.size, value)

        return erase

    def jitter(step: color.ColorJitter) -> Callable:
        return v2.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue)

    makers = {
        geometry.HorizontalFlip: flips, geometry.VerticalFlip: flips, geometry.FlipBoth: flips,
        geometry.Affine: affine, geometry.ShiftScaleRotate: affine,
        geometry.EnlargeCrop: lambda step: v2.RandomAffine(0, scale=(step.scale, step.scale), **smooth),
        geometry.Resize: lambda step: v2.Resize((step.size, step.size), antialias=False, **smooth),
        geometry.RandomResizedCrop: lambda step: v2.RandomResizedCrop(
            step.size, (step.area, 1.0), (1 / step.ratio, step.ratio), antialias=False, **smooth),
        color.CoarseDropout: hole, color.ColorJitter: jitter, color.ColorMatrix: jitter,
        color.ToGray: lambda step: v2.Grayscale(3)}
    pipeline = v2.Compose([*(v2.RandomApply([makers[type(step)](step)], p) for p, step in steps),
                           v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])

    def augment(image: np.ndarray, key: int) -> np.ndarray:
        with torch.random.fork_rng(devices=[]):  # torchvision's transforms know the global generator alone
            torch.manual_seed(key)
            return pipeline(torch.from_numpy(np.array(image)).permute(2, 0, 1)).permute(1, 2, 0).numpy()

    return augment
