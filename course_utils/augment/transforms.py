"""The transforms by name, and reading an augmentation as ``variants.toml`` describes it."""
import dataclasses
from collections.abc import Mapping, Sequence

from course_utils.augment import color, geometry
from course_utils.config import Transform
from course_utils.errors import CourseError, unknown_name_error

TRANSFORMS: Mapping[str, type] = {
    "horizontal_flip": geometry.HorizontalFlip, "vertical_flip": geometry.VerticalFlip, "flip_both": geometry.FlipBoth,
    "affine": geometry.Affine, "shift_scale_rotate": geometry.ShiftScaleRotate, "enlarge_crop": geometry.EnlargeCrop,
    "resize": geometry.Resize, "random_resized_crop": geometry.RandomResizedCrop, "coarse_dropout": color.CoarseDropout,
    "to_gray": color.ToGray, "color_jitter": color.ColorJitter, "color_matrix": color.ColorMatrix}


def build_steps(augmentation: Sequence[Transform]) -> list[tuple[float, object]]:
    """``(p, transform)`` of each described step. Raises ``CourseError`` for an unknown name, setting or p."""
    steps = []
    for described in augmentation:
        if described.name not in TRANSFORMS:
            raise unknown_name_error("transform", described.name, TRANSFORMS)
        kind = TRANSFORMS[described.name]
        legal = [f.name for f in dataclasses.fields(kind)]
        for name, value in described.settings.items():
            if name not in legal:
                raise unknown_name_error(f"setting of {described.name}", name, legal)
            if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
                raise CourseError(f"{described.name}: {name} = {value!r} must be a number, 0 or greater.")
        if not 0 <= described.p <= 1:
            raise CourseError(f"{described.name}: p = {described.p!r} must be between 0 and 1.")
        if kind in geometry.RESIZING and described.p != 1:
            raise CourseError(f"{described.name}: p = {described.p!r} must be 1, or the images differ in size.")
        steps.append((described.p, kind(**described.settings)))
    return steps
