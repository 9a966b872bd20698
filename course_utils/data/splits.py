"""Which images are used: subsets, validation splits, and the items of an epoch. Indices, never copies of images."""
from dataclasses import dataclass
from typing import Self

import numpy as np

from course_utils.errors import CourseError


@dataclass(frozen=True)
class EpochItems:
    """What one epoch consists of: M items, each an image, plain or transformed."""

    image: np.ndarray  # int64 (M,): index of the image
    transform_id: np.ndarray  # int64 (M,): 0 plain, k changed by the k-th transform of the expansion

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, chosen: np.ndarray) -> Self:
        return EpochItems(self.image[chosen], self.transform_id[chosen])


def stratified_subset(labels: np.ndarray, count: int, classes: int, or_fewer: bool = False) -> np.ndarray:
    """Indices, ascending, of the first images of each class, ``count`` in all; the first classes get one more where it
    does not divide evenly. Raises ``CourseError`` when a class has too few, unless ``or_fewer``: then all of it.
    """
    chosen = []
    for label in range(classes):
        wanted = count // classes + (label < count % classes)
        found = np.flatnonzero(labels == label)[:wanted]
        if len(found) < wanted and not or_fewer:
            raise CourseError(f"{count} images requested, {wanted} of class {label}: there are only {len(found)}.")
        chosen.append(found)
    return np.sort(np.concatenate(chosen))


def holdout_split(labels: np.ndarray, share: float, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices (training, validation), ascending: ``share`` of each class held out at random by ``seed``.

    The share is rounded, to at least one of a class that has two. Raises ``CourseError`` when nothing can be held out.
    """
    rng = np.random.default_rng(seed)
    found = [rng.permutation(np.flatnonzero(labels == label)) for label in range(classes)]
    held = np.sort(np.concatenate([rows[:max(round(share * len(rows)), int(len(rows) > 1))] for rows in found]))
    if not len(held):
        raise CourseError(f"holdout = {share} of {len(labels)} images leaves none for validation: use more images.")
    return np.setdiff1d(np.arange(len(labels)), held), held


def expand_dataset(count: int, transforms: int, seed: int) -> EpochItems:
    """All ``count`` images plain, and for each of ``transforms`` its own random half of them.

    GTSRB as published: 39,209 images and 12 transforms make 39,209 + 12 x 19,604 = 274,457 items.
    """
    rng = np.random.default_rng(seed)
    images = [np.arange(count), *(np.sort(rng.permutation(count)[:count // 2]) for _ in range(transforms))]
    return EpochItems(np.concatenate(images), np.repeat(np.arange(len(images)), [len(part) for part in images]))


def split_items(items: EpochItems, labels: np.ndarray, tracks: np.ndarray | None, split: str,
                share: float) -> tuple[EpochItems, EpochItems]:
    """``items`` divided into (training, validation); ``labels`` and ``tracks``, int64 (N,): of the training images.

    ``split="random"`` takes items, as the published GTSRB code does: photographs of one sign, and copies of one, are
    then on both sides. "track" takes whole tracks and holds out their plain images alone; ``CourseError`` without them.
    """
    classes = int(labels.max()) + 1
    if split == "random":
        rest, held = holdout_split(labels[items.image], share, classes)
        return items[rest], items[held]
    if tracks is None:
        raise CourseError("This data set has no tracks: use split = 'random'.")
    numbers, first = np.unique(tracks, return_index=True)
    _, chosen = holdout_split(labels[first], share, classes)
    held = np.isin(tracks[items.image], numbers[chosen])
    return items[~held], items[held & (items.transform_id == 0)]
