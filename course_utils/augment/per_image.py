"""The per-image engines: the same descriptions carried out by Albumentations or by torchvision.

Both are seeded by the image's key, so that results depend on neither workers nor order. They take ten times as long as
the batched engine; use them to compare.
"""
import functools
import os
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from course_utils.augment import color, geometry
from course_utils.augment.pipeline import Color
from course_utils.augment.transforms import build_steps
from course_utils.config import Transform

ImagePipeline = Callable[[np.ndarray, int], np.ndarray]  # uint8 (H, W, 3) and a key -> float32 (H', W', 3), normalized


def per_image_pipeline(engine: str, augmentation: Sequence[Transform], mean: Color, std: Color) -> ImagePipeline:
    """``augmentation``, then normalization, by ``engine`` "albumentations" or "torchvision"."""
    make = _by_albumentations if engine == "albumentations" else _by_torchvision
    return make(build_steps(augmentation), mean, std)


def _maker(step: Any, makers: Mapping[type, Callable]) -> Callable:
    """The entry for the step's class, or for the class that it extends."""
    return next(makers[kind] for kind in type(step).__mro__ if kind in makers)


def _by_albumentations(steps: Sequence[tuple[float, Any]], mean: Color, std: Color) -> ImagePipeline:
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it would ask the network for a newer version
    import albumentations as A
    import cv2

    flip = {3: A.HorizontalFlip, 2: A.VerticalFlip}
    border = {"zeros": cv2.BORDER_CONSTANT, "reflection": cv2.BORDER_REFLECT_101}

    makers = {
        geometry.HorizontalFlip: lambda step, p: A.Sequential([flip[axis](p=1) for axis in step.axes], p=p),
        geometry.Affine: lambda step, p: A.Affine(
            scale=(1 - step.scale, 1 + step.scale), rotate=(-step.rotate, step.rotate), keep_ratio=True, strict=True,
            shear={"x": (-step.shear, step.shear), "y": (0.0, 0.0)}, border_mode=border[step.border], p=p,
            translate_percent=dict.fromkeys("xy", (-step.shift, step.shift))),
        geometry.EnlargeCrop: lambda step, p: A.Affine(scale=(step.scale, step.scale), p=p, strict=True),
        geometry.Resize: lambda step, p: A.Resize(step.size, step.size, p=p),
        geometry.RandomResizedCrop: lambda step, p: A.RandomResizedCrop(
            (step.size, step.size), (step.area, 1.0), (1 / step.ratio, step.ratio), p=p),
        color.ColorJitter: lambda step, p: A.ColorJitter(
            *map(color.factor_range, (step.brightness, step.contrast, step.saturation)), (-step.hue, step.hue), p=p),
        color.CoarseDropout: lambda step, p: A.CoarseDropout(
            num_holes_range=(1, 1), hole_height_range=(step.size, step.size), hole_width_range=(step.size, step.size),
            fill=tuple(round(255 * value) for value in mean), p=p, strict=True),
        color.ToGray: lambda step, p: A.ToGray(p=p, strict=True)}
    pipeline = A.Compose([*(_maker(step, makers)(step, p) for p, step in steps),
                          A.Normalize(mean, std, max_pixel_value=255.0)])

    def augment(image: np.ndarray, key: int) -> np.ndarray:
        # set_random_seed would seed every transform alike: an image would get all those of one probability or none.
        pipeline.set_random_state(np.random.default_rng(key), random.Random(key))
        return pipeline(image=image)["image"]

    return augment


def _by_torchvision(steps: Sequence[tuple[float, Any]], mean: Color, std: Color) -> ImagePipeline:
    from torchvision.transforms import InterpolationMode, v2

    smooth = {"interpolation": InterpolationMode.BILINEAR}
    move = functools.partial(v2.RandomAffine, **smooth, fill=None)  # fill=0 would darken the border twice
    flip = {3: v2.RandomHorizontalFlip, 2: v2.RandomVerticalFlip}

    def affine(step: geometry.Affine) -> Callable:
        scale, shear = (1 - step.scale, 1 + step.scale), (-step.shear, step.shear)
        if step.border == "zeros":
            return move(step.rotate, (step.shift, step.shift), scale, shear)
        moved = move(step.rotate, (step.shift / 2, step.shift / 2), scale, shear)
        # RandomAffine has no reflection: pad to twice the side first.
        return lambda x: v2.CenterCrop(x.shape[-1])(moved(v2.Pad(x.shape[-1] // 2, padding_mode="reflect")(x)))

    def erase(step: color.CoarseDropout, x: torch.Tensor) -> torch.Tensor:
        top, left = (int(torch.randint(side - step.size + 1, ())) for side in x.shape[1:])
        value = torch.tensor([round(255 * value) for value in mean], dtype=x.dtype).view(3, 1, 1)
        return v2.functional.erase(x, top, left, step.size, step.size, value)

    makers = {
        geometry.HorizontalFlip: lambda step: v2.Compose([flip[axis](1) for axis in step.axes]),
        geometry.Affine: affine, color.CoarseDropout: lambda step: functools.partial(erase, step),
        geometry.EnlargeCrop: lambda step: move(0, scale=(step.scale, step.scale)),
        geometry.Resize: lambda step: v2.Resize((step.size, step.size), antialias=False, **smooth),
        geometry.RandomResizedCrop: lambda step: v2.RandomResizedCrop(
            step.size, (step.area, 1.0), (1 / step.ratio, step.ratio), antialias=False, **smooth),
        color.ColorJitter: lambda step: v2.ColorJitter(step.brightness, step.contrast, step.saturation, step.hue),
        color.ToGray: lambda step: v2.Grayscale(3)}
    pipeline = v2.Compose([*(v2.RandomApply([_maker(step, makers)(step)], p) for p, step in steps),
                           v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)])

    def augment(image: np.ndarray, key: int) -> np.ndarray:
        with torch.random.fork_rng(devices=[]):  # torchvision's transforms use the CPU's global generator;
            torch.default_generator.manual_seed(key)  # torch.manual_seed would seed the GPU's as well
            return pipeline(torch.from_numpy(np.array(image)).permute(2, 0, 1)).permute(1, 2, 0).numpy()

    return augment
