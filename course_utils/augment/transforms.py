"""The transforms that an augmentation is made of, each for both engines.

A class's fields are its settings. For the batched engine it has ``matrix`` (geometry) or ``pixels`` (colour, holes),
and ``draws``, how many random numbers an image needs; ``reference`` builds the same for Albumentations.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from course_utils.errors import CourseError, unknown
from course_utils.config import Transform
from course_utils.augment.geometry import (
    RESIZING,
    Affine,
    EnlargeCrop,
    FlipBoth,
    HorizontalFlip,
    RandomResizedCrop,
    Resize,
    ShiftScaleRotate,
    VerticalFlip,
)
from course_utils.augment.color import CoarseDropout, ColorJitter, ColorMatrix, ToGray

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
