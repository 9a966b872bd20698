"""What each data set is, and opening it as arrays.

The one form of data is the prepared arrays: ``<root>/<name>/{train,test}_images.npy`` (uint8, N x H x W x 3, RGB),
``{train,test}_labels.npy`` (int64) and ``meta.json``. ``acquire.py`` makes them.
"""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_utils.data import prepare as acquire, synthetic as sample
from course_utils.errors import CourseError, unknown


@dataclass(frozen=True)
class Info:
    """A data set's facts."""

    title: str
    mean: tuple[float, float, float]  # of the training pixels, RGB, 0 to 1
    std: tuple[float, float, float]
    classes: int = 10
    side: int = 32  # pixels of a side of its images, which are square
    tracks: bool = False  # whether it knows which pictures show one physical object


DATASETS: Mapping[str, Info] = {
    "cifar10": Info(
        "CIFAR-10",
        mean=(0.49139968, 0.48215841, 0.44653091),  # the published constants; equal np.mean / 255 of the training
        std=(0.24703223, 0.24348513, 0.26158784),   # images to 1e-8 (a test holds it)
    ),
    "gtsrb": Info(
        "GTSRB",
        mean=(0.3337, 0.3064, 0.3171),  # the published constants; those of these training images, resized to 32x32,
        std=(0.2672, 0.2564, 0.2629),   # are (0.3403, 0.3121, 0.3214) and (0.2724, 0.2608, 0.2669)
        classes=43,
        tracks=True,
    ),
    "stl10": Info(
        "STL-10 (labelled)",
        mean=(0.507, 0.487, 0.441),  # the published constants, which are CIFAR-100's;
        std=(0.267, 0.256, 0.276),   # STL-10's own are (0.447, 0.440, 0.407) and (0.260, 0.257, 0.271)
        side=96,
    ),
}


@dataclass(frozen=True)
class Dataset:
    """Arrays of one data set. ``sha256`` names their exact content."""

    name: str
    title: str  # for figures; says "sample" when it is one
    classes: tuple[str, ...]
    mean: tuple[float, float, float]  # what the transforms use, RGB, 0 to 1
    std: tuple[float, float, float]
    train_images: np.ndarray  # uint8 (N, H, W, 3)
    train_labels: np.ndarray  # int64 (N,)
    test_images: np.ndarray
    test_labels: np.ndarray
    is_sample: bool
    sha256: Mapping[str, str]  # of each array's bytes
    train_tracks: np.ndarray | None = None  # int64 (N,): pictures of one physical object share a number (GTSRB)


def open_dataset(name: str, root: str | Path | None = None, data: str = "real", seed: int = 0,
                 train_images: int | None = None, test_images: int | None = None) -> Dataset:
    """Open a data set: ``data="real"`` from prepared arrays under ``root``, ``data="sample"`` drawn from ``seed``.

    Real arrays are opened memory-mapped and checked against the SHA-256 in their ``meta.json``. With ``train_images``
    or ``test_images`` only so many are used: of real data the first of each class, of the sample fewer are drawn.
    Raises ``CourseError`` when real data is asked for and not there; it never turns into the sample.
    """
    if name not in DATASETS:
        raise unknown("data set", name, DATASETS)
    info = DATASETS[name]
    if data == "sample":
        counts = {"train": train_images or 2000, "test": test_images or 500}
        arrays = sample.draw(name, counts, seed)
        mean, std = channel_statistics(arrays["train_images"])
        return Dataset(name, f"{info.title} sample (drawn)", sample.CLASSES[name], mean, std, is_sample=True,
                       sha256={key: acquire.sha256(array) for key, array in arrays.items()}, **arrays)
    arrays, meta = acquire.open_prepared(name, acquire.data_root(root))
    for split, count in (("train", train_images), ("test", test_images)):
        if count is not None:
            labels = arrays[f"{split}_labels"]
            chosen = stratified(labels, count, len(meta["classes"]))
            arrays |= {key: array[chosen] for key, array in arrays.items() if key.startswith(split)}
    return Dataset(name, info.title, tuple(meta["classes"]), info.mean, info.std, is_sample=False,
                   sha256=meta["sha256"], **arrays)


def stratified(labels: np.ndarray, count: int, classes: int) -> np.ndarray:
    """Indices, ascending, of the first ``count / classes`` of each class (the first classes one more, if it is odd).

    Raises ``CourseError`` when a class has too few.
    """
    chosen = []
    for label in range(classes):
        wanted = count // classes + (label < count % classes)
        found = np.flatnonzero(labels == label)[:wanted]
        if len(found) < wanted:
            raise CourseError(f"{count} images asked for, {wanted} of class {label}: there are only {len(found)}.")
        chosen.append(found)
    return np.sort(np.concatenate(chosen))


def holdout_split(labels: np.ndarray, share: float, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Indices (training, validation), ascending: ``share`` of each class held out at random by ``seed``.

    The share is rounded, to at least one of a class that has two. Raises ``CourseError`` when nothing can be held out.
    """
    rng = np.random.default_rng(seed)
    held = []
    for label in range(classes):
        found = rng.permutation(np.flatnonzero(labels == label))
        held.append(found[:max(round(share * len(found)), int(len(found) > 1))])
    held = np.sort(np.concatenate(held))
    if not len(held):
        raise CourseError(f"holdout = {share} of {len(labels)} leaves nothing to validate on: use more images.")
    return np.setdiff1d(np.arange(len(labels)), held), held


@dataclass(frozen=True)
class Items:
    """What one epoch consists of: M items, each an image, plain or changed. Indices, not pictures."""

    image: np.ndarray  # int64 (M,): the image's index
    kind: np.ndarray  # int64 (M,): 0 plain, k changed by the k-th transform of the expansion

    def __len__(self) -> int:
        return len(self.image)

    def __getitem__(self, chosen: np.ndarray) -> Items:
        return Items(self.image[chosen], self.kind[chosen])


def expand(count: int, transforms: int, seed: int) -> Items:
    """All ``count`` images plain, and for each of ``transforms`` its own random half of them.

    GTSRB as published: 39,209 images and 12 transforms make 39,209 + 12 x 19,604 = 274,457 items.
    """
    rng = np.random.default_rng(seed)
    halves = [np.sort(rng.permutation(count)[:count // 2]) for _ in range(transforms)]
    kinds = [np.full(len(half), number, np.int64) for number, half in enumerate(halves, 1)]
    return Items(np.concatenate([np.arange(count), *halves]), np.concatenate([np.zeros(count, np.int64), *kinds]))


def split_items(items: Items, data: Dataset, split: str, share: float) -> tuple[Items, Items]:
    """``items`` of the training images divided into (training, held out), about ``share`` of each class held out.

    ``split="random"`` draws items, as the published GTSRB code does: pictures of one sign, and changed copies of one
    picture, then lie on both sides. ``split="track"`` draws whole tracks, and holds out their plain pictures alone.
    Raises ``CourseError`` when the data set knows no tracks.
    """
    labels, classes = data.train_labels, len(data.classes)
    if split == "random":
        rest, held = holdout_split(labels[items.image], share, classes)
        return items[rest], items[held]
    if data.train_tracks is None:
        raise CourseError(f"{data.title} knows no tracks: use split = 'random'.")
    tracks, first = np.unique(data.train_tracks, return_index=True)
    _, chosen = holdout_split(labels[first], share, classes)
    held = np.isin(data.train_tracks[items.image], tracks[chosen])
    return items[~held], items[held & (items.kind == 0)]


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, over all pixels, on the scale 0 to 1. ``images``: uint8 (N, H, W, 3).

    Counted exactly, by histogram, so that 150 million pixels need neither a float copy nor a sum that rounds.
    """
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(3):
        share = np.bincount(images[..., channel].reshape(-1), minlength=256) / images[..., channel].size
        mean.append(float(share @ values))
        std.append(float(np.sqrt(share @ (values - mean[-1]) ** 2)))
    return tuple(mean), tuple(std)
