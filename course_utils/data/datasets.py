"""Opening a data set as arrays."""
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from course_utils.config import Experiment
from course_utils.data import prepare, synthetic
from course_utils.data.info import DATASETS, data_root
from course_utils.data.splits import stratified_subset
from course_utils.variants import load_experiment


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
    arrays, meta = prepare.open_prepared(name, data_root(root))
    for split, count in (("train", train_images), ("test", test_images)):
        if count is not None:
            labels = arrays[f"{split}_labels"]
            chosen = stratified_subset(labels, count, len(meta["classes"]), or_fewer=not info.archives)
            arrays |= {key: array[chosen] for key, array in arrays.items() if key.startswith(split)}
    is_published = meta["sha256"] == info.sha256 and tuple(meta["classes"]) == info.classes
    title = info.title if is_published else f"{info.title}, OTHER DATA than the published"
    return Dataset(name, title, tuple(meta["classes"]), info.mean, info.std, is_synthetic=False,
                   sha256=meta["sha256"], **arrays)


def input_size(exp: Experiment) -> int:
    """Height and width in pixels of the images that the network of ``exp`` was made for: its variant's data set's."""
    return DATASETS[load_experiment(exp.assignment, exp.variant).dataset].image_size


def load_dataset(exp: Experiment, root: str | Path | None = None) -> Dataset:
    """``open_dataset`` as ``exp`` says; images of another data set than its variant's are resized to ``input_size``."""
    data = open_dataset(exp.dataset, root, exp.data, exp.seed, exp.train_images, exp.test_images)
    size = input_size(exp)
    if data.train_images.shape[1] == size:
        return data
    return dataclasses.replace(data, train_images=_resized(data.train_images, size),
                               test_images=_resized(data.test_images, size))


def _resized(images: np.ndarray, size: int) -> np.ndarray:
    """(N, H, W, 3) to (N, size, size, 3), uint8, in parts that need little memory."""
    parts = []
    for k in range(0, len(images), 1000):
        part = torch.from_numpy(images[k:k + 1000].copy()).permute(0, 3, 1, 2)
        parts.append(F.interpolate(part, (size, size), mode="bilinear", antialias=True).permute(0, 2, 3, 1).numpy())
    return np.ascontiguousarray(np.concatenate(parts))


def channel_statistics(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel over all pixels, scaled to 0..1. ``images``: uint8 (N, H, W, 3)."""
    values = np.arange(256) / 255  # by histogram: neither a float copy nor a sum that rounds
    shares = [np.bincount(images[..., c].reshape(-1), minlength=256) / images[..., c].size for c in range(3)]
    mean = tuple(float(share @ values) for share in shares)
    return mean, tuple(float(np.sqrt(share @ (values - m) ** 2)) for share, m in zip(shares, mean))
