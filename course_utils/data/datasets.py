"""What each data set is, and opening it as arrays."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_utils.data import prepare, synthetic
from course_utils.data.splits import stratified_subset
from course_utils.errors import unknown_name_error


@dataclass(frozen=True)
class DatasetInfo:
    """A data set's constants."""

    title: str
    mean: tuple[float, float, float]  # of the training pixels, RGB, 0 to 1
    std: tuple[float, float, float]
    classes: int = 10
    image_size: int = 32  # pixels; images are square
    has_tracks: bool = False  # whether it is known which images show one physical object


DATASETS: Mapping[str, DatasetInfo] = {
    "cifar10": DatasetInfo(
        "CIFAR-10",
        mean=(0.49139968, 0.48215841, 0.44653091),  # the published constants; they equal np.mean / 255 of the training
        std=(0.24703223, 0.24348513, 0.26158784),   # images to 1e-8 (tested)
    ),
    "gtsrb": DatasetInfo(
        "GTSRB",
        mean=(0.3337, 0.3064, 0.3171),  # the published constants; those of these training images, resized to 32x32,
        std=(0.2672, 0.2564, 0.2629),   # are (0.3403, 0.3121, 0.3214) and (0.2724, 0.2608, 0.2669)
        classes=43,
        has_tracks=True,
    ),
    "stl10": DatasetInfo(
        "STL-10 (labeled)",
        mean=(0.507, 0.487, 0.441),  # the published constants, which are CIFAR-100's;
        std=(0.267, 0.256, 0.276),   # STL-10's own are (0.447, 0.440, 0.407) and (0.260, 0.257, 0.271)
        image_size=96,
    ),
}


@dataclass(frozen=True)
class Dataset:
    """Arrays of one data set. ``sha256`` identifies their content."""

    name: str
    title: str  # for figures; says "synthetic" when it is
    classes: tuple[str, ...]
    mean: tuple[float, float, float]  # for normalization, RGB, 0 to 1
    std: tuple[float, float, float]
    train_images: np.ndarray  # uint8 (N, H, W, 3)
    train_labels: np.ndarray  # int64 (N,)
    test_images: np.ndarray
    test_labels: np.ndarray
    is_synthetic: bool
    sha256: Mapping[str, str]  # of each array's bytes
    train_tracks: np.ndarray | None = None  # int64 (N,): images of one physical object share a number (GTSRB)


def open_dataset(name: str, root: str | Path | None = None, data: str = "real", seed: int = 0,
                 train_images: int | None = None, test_images: int | None = None) -> Dataset:
    """Open a data set: ``data="real"`` from prepared arrays under ``root``, ``"synthetic"`` generated from ``seed``.

    Real arrays are memory-mapped and checked against the SHA-256 in their ``meta.json``. With ``train_images`` or
    ``test_images`` only so many are used: of real data the first of each class; of synthetic data fewer are generated.
    Raises ``CourseError`` when real data is missing; it is never replaced by synthetic data.
    """
    if name not in DATASETS:
        raise unknown_name_error("data set", name, DATASETS)
    info = DATASETS[name]
    if data == "synthetic":
        arrays = synthetic.generate(name, {"train": train_images or 2000, "test": test_images or 500}, seed)
        mean, std = channel_statistics(arrays["train_images"])
        return Dataset(name, f"{info.title}, synthetic", synthetic.CLASSES[name], mean, std, is_synthetic=True,
                       sha256={key: prepare.sha256(array) for key, array in arrays.items()}, **arrays)
    arrays, meta = prepare.open_prepared(name, prepare.data_root(root))
    for split, count in (("train", train_images), ("test", test_images)):
        if count is not None:
            labels = arrays[f"{split}_labels"]
            chosen = stratified_subset(labels, count, len(meta["classes"]))
            arrays |= {key: array[chosen] for key, array in arrays.items() if key.startswith(split)}
    return Dataset(name, info.title, tuple(meta["classes"]), info.mean, info.std, is_synthetic=False,
                   sha256=meta["sha256"], **arrays)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over all pixels, scaled to 0..1. ``images``: uint8 (N, H, W, 3).

    Exact, by histogram: 150 million pixels need neither a float copy nor a sum that rounds.
    """
    values = np.arange(256) / 255
    mean, std = [], []
    for channel in range(3):
        share = np.bincount(images[..., channel].reshape(-1), minlength=256) / images[..., channel].size
        mean.append(float(share @ values))
        std.append(float(np.sqrt(share @ (values - mean[-1]) ** 2)))
    return tuple(mean), tuple(std)
