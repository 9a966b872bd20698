"""Opening a data set as arrays."""
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from course_utils.data import prepare, synthetic
from course_utils.data.info import DATASETS
from course_utils.data.splits import stratified_subset


@dataclass(frozen=True)
class Dataset:
    """Arrays of one data set."""

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
    sha256: Mapping[str, str]  # of each array's bytes; of real data, of the complete arrays
    train_tracks: np.ndarray | None = None  # int64 (N,): images of one physical object share a number (GTSRB)


def open_dataset(name: str, root: str | Path | None = None, data: str = "real", seed: int = 0,
                 train_images: int | None = None, test_images: int | None = None) -> Dataset:
    """Open a data set: ``data="real"`` from prepared arrays under ``root``, ``"synthetic"`` generated from ``seed``.

    Real arrays are memory-mapped and checked against the SHA-256 in their ``meta.json``; ``train_images`` and
    ``test_images`` are then the first of each class. Arrays that are not the published ones (``datasets.toml``) are
    called so in the title, which figures and records carry. Raises ``CourseError`` when real data is missing.
    """
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
    title = info.title if meta["sha256"] == info.sha256 else f"{info.title}, OTHER DATA than the published"
    return Dataset(name, title, tuple(meta["classes"]), info.mean, info.std, is_synthetic=False,
                   sha256=meta["sha256"], **arrays)


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over all pixels, scaled to 0..1. ``images``: uint8 (N, H, W, 3)."""
    values = np.arange(256) / 255  # by histogram: neither a float copy nor a sum that rounds
    shares = [np.bincount(images[..., c].reshape(-1), minlength=256) / images[..., c].size for c in range(3)]
    mean = tuple(float(share @ values) for share in shares)
    return mean, tuple(float(np.sqrt(share @ (values - m) ** 2)) for share, m in zip(shares, mean))
