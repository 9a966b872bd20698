"""The per-image engines: the same descriptions carried out by Albumentations or by torchvision.

Both are seeded by the image's key, so that results depend on neither workers nor order. They cost ten times the time of
the batched engine; use them to compare, or for a transform that only they have.
"""
from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
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
    if engine == "albumentations":
        pipeline = albumentations_pipeline(augmentation, mean, std)

        def by_albumentations(image: np.ndarray, key: int) -> np.ndarray:
            # Not by set_random_seed, which seeds every transform alike: an image would then get all those of one
            # probability or none of them.
            pipeline.set_random_state(np.random.default_rng(key), random.Random(key))
            return pipeline(image=image)["image"]

        return by_albumentations
    transforms = torchvision_pipeline(augmentation, mean, std)

    def by_torchvision(image: np.ndarray, key: int) -> np.ndarray:
        with torch.random.fork_rng(devices=[]):  # its transforms know the global generator alone
            torch.manual_seed(key)
            return transforms(torch.from_numpy(np.array(image)).permute(2, 0, 1)).permute(1, 2, 0).numpy()

    return by_torchvision


def albumentations_pipeline(augmentation: Sequence[Transform], mean: Color, std: Color) -> A.Compose:
    """The steps as Albumentations has them, and its normalization."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    import albumentations as A

    fill = [round(255 * value) for value in mean]
    steps = [_albumentations_step(step, p, fill) for p, step in build_steps(augmentation)]
    return A.Compose([*steps, A.Normalize(mean, std, max_pixel_value=255.0)])


def _albumentations_step(step: Any, p: float, fill: Sequence[int]) -> A.BasicTransform:
    import albumentations as A
    import cv2

    def flips(step: Any) -> A.BasicTransform:
        kinds = {3: A.HorizontalFlip(p=1), 2: A.VerticalFlip(p=1)}
        return A.Sequential([kinds[axis] for axis in step.axes], p=p)

    def affine(step: geometry.Affine) -> A.BasicTransform:
        modes = {"zeros": cv2.BORDER_CONSTANT, "reflection": cv2.BORDER_REFLECT_101}
        return A.Affine(scale=(1 - step.scale, 1 + step.scale), rotate=(-step.rotate, step.rotate), p=p,
                        shear={"x": (-step.shear, step.shear), "y": (0.0, 0.0)},
                        translate_percent=dict.fromkeys("xy", (-step.shift, step.shift)),
                        keep_ratio=True, border_mode=modes[step.border], strict=True)

    def hole(step: color.CoarseDropout) -> A.BasicTransform:
        side = (step.size, step.size)
        return A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=side, hole_width_range=side,
                               fill=tuple(fill), p=p, strict=True)

    def jitter(step: color.ColorJitter) -> A.BasicTransform:
        return A.ColorJitter(factor_range(step.brightness), factor_range(step.contrast), factor_range(step.saturation),
                             (-step.hue, step.hue), p=p, strict=True)

    makers: Mapping[type, Callable[[Any], A.BasicTransform]] = {
        geometry.HorizontalFlip: flips, geometry.VerticalFlip: flips, geometry.FlipBoth: flips,
        geometry.Affine: affine, geometry.ShiftScaleRotate: affine,
        geometry.EnlargeCrop: lambda step: A.Affine(scale=(step.scale, step.scale), p=p, strict=True),
        geometry.Resize: lambda step: A.Resize(step.size, step.size, p=p),
        geometry.RandomResizedCrop: lambda step: A.RandomResizedCrop(
            (step.size, step.size), (step.area, 1.0), (1 / step.ratio, step.ratio), p=p),
        color.CoarseDropout: hole, color.ColorJitter: jitter, color.ColorMatrix: jitter,
        color.ToGray: lambda step: A.ToGray(p=p, strict=True)}
    return makers[type(step)](step)


def torchvision_pipeline(augmentation: Sequence[Transform], mean: Color, std: Color) -> Callable[[Any], torch.Tensor]:
    """The steps as ``torchvision.transforms.v2`` has them, and its normalization: uint8 (3, H, W) -> float32."""
    from torchvision.transforms import v2

    fill = [round(255 * value) for value in mean]
    steps = [v2.RandomApply([_torchvision_step(step, fill)], p) for p, step in build_steps(augmentation)]
    return v2.Compose([*steps, v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])


def _torchvision_step(step: Any, fill: Sequence[int]) -> Callable[[torch.Tensor], torch.Tensor]:
    from torchvision.transforms import InterpolationMode, v2

    bilinear = InterpolationMode.BILINEAR

    def flips(step: Any) -> Callable:
        kinds = {3: v2.RandomHorizontalFlip(1), 2: v2.RandomVerticalFlip(1)}
        return v2.Compose([kinds[axis] for axis in step.axes])

    def affine(step: geometry.Affine) -> Callable:
        return v2.RandomAffine(step.rotate, (step.shift, step.shift), (1 - step.scale, 1 + step.scale),
                               (-step.shear, step.shear), bilinear)

    def reflected(step: geometry.ShiftScaleRotate) -> Callable:
        def transform(x: torch.Tensor) -> torch.Tensor:  # RandomAffine knows constant borders alone
            side = x.shape[-1]
            around = v2.Pad(side // 2, padding_mode="reflect")
            moved = v2.RandomAffine(step.rotate, (step.shift / 2, step.shift / 2), (1 - step.scale, 1 + step.scale),
                                    None, bilinear)  # the padded side is twice as long
            return v2.CenterCrop(side)(moved(around(x)))

        return transform

    def hole(step: color.CoarseDropout) -> Callable:
        def transform(x: torch.Tensor) -> torch.Tensor:
            top, left = (int(torch.randint(side - step.size + 1, ())) for side in x.shape[1:])
            value = torch.tensor(fill, dtype=x.dtype).view(3, 1, 1)
            return v2.functional.erase(x, top, left, step.size, step.size, value)

        return transform

    def jitter(step: color.ColorJitter) -> Callable:
        return v2.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue)

    def enlarged(step: geometry.EnlargeCrop) -> Callable:
        return v2.RandomAffine(0, scale=(step.scale, step.scale), interpolation=bilinear)

    makers: Mapping[type, Callable[[Any], Callable]] = {
        geometry.HorizontalFlip: flips, geometry.VerticalFlip: flips, geometry.FlipBoth: flips,
        geometry.Affine: affine, geometry.ShiftScaleRotate: reflected, geometry.EnlargeCrop: enlarged,
        geometry.Resize: lambda step: v2.Resize((step.size, step.size), bilinear, antialias=False),
        geometry.RandomResizedCrop: lambda step: v2.RandomResizedCrop(
            step.size, (step.area, 1.0), (1 / step.ratio, step.ratio), bilinear, antialias=False),
        color.CoarseDropout: hole, color.ColorJitter: jitter, color.ColorMatrix: jitter,
        color.ToGray: lambda step: v2.Grayscale(3)}
    return makers[type(step)](step)
