"""The transforms by name, and reading an augmentation as ``variants.toml`` describes it."""
import dataclasses
from collections.abc import Mapping, Sequence

from course_utils.augment import color, geometry
from course_utils.config import Transform
from course_utils.errors import CourseError, check_names

TRANSFORMS: Mapping[str, type] = {
    "horizontal_flip": geometry.HorizontalFlip, "vertical_flip": geometry.VerticalFlip, "flip_both": geometry.FlipBoth,
    "affine": geometry.Affine, "shift_scale_rotate": geometry.ShiftScaleRotate, "enlarge_crop": geometry.EnlargeCrop,
    "resize": geometry.Resize, "random_resized_crop": geometry.RandomResizedCrop, "coarse_dropout": color.CoarseDropout,
    "to_gray": color.ToGray, "color_jitter": color.ColorJitter, "color_matrix": color.ColorMatrix}

LIMITS: Mapping[str, tuple[float, float]] = {  # smallest and largest value of a setting, whatever the transform
    "size": (1, 4096), "area": (0.001, 1), "ratio": (1, 10), "rotate": (0, 180), "shear": (0, 80), "shift": (0, 1),
    "brightness": (0, 100), "contrast": (0, 100), "saturation": (0, 100), "hue": (0, 0.5), "scale": (0, 0.99)}


def build_steps(augmentation: Sequence[Transform]) -> list[tuple[float, object]]:
    """``(p, transform)`` of each described step. Raises ``CourseError`` for an unknown name, setting or p."""
    steps = []
    for described in augmentation:
        check_names("transform", [described.name], TRANSFORMS)
        kind = TRANSFORMS[described.name]
        check_names(f"setting of {described.name}", described.settings, [f.name for f in dataclasses.fields(kind)])
        for name, value in described.settings.items():
            low, high = (1, 10) if kind is geometry.EnlargeCrop else LIMITS[name]
            kinds = (int,) if name == "size" else (int, float)
            if type(value) not in kinds or not low <= value <= high:
                raise CourseError(f"{described.name}: {name} = {value!r} must be a {'whole ' * (name == 'size')}number "
                                  f"between {low} and {high}.")
        if type(described.p) not in (int, float) or not 0 <= described.p <= 1:
            raise CourseError(f"{described.name}: p = {described.p!r} must be between 0 and 1.")
        if kind in geometry.RESIZING and described.p != 1:
            raise CourseError(f"{described.name}: p = {described.p!r} must be 1, or the images differ in size.")
        steps.append((described.p, kind(**described.settings)))
    return steps
