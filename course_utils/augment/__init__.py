"""Augmentation: one description in ``variants.toml``, carried out on whole batches or image by image."""
from course_utils.augment.pipeline import BatchAugment, denormalize, image_keys, normalize
from course_utils.augment.transforms import TRANSFORMS

__all__ = ["TRANSFORMS", "BatchAugment", "denormalize", "image_keys", "normalize"]
