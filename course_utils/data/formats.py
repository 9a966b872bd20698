"""Reading the published files of the data sets into arrays.

Whatever the form, the arrays are the same bytes. Files are not trusted: a file that is incomplete, damaged or asks for
code to be executed is a ``CourseError`` that names it.
"""
from __future__ import annotations

import csv
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from course_utils.errors import CourseError

Arrays = dict[str, np.ndarray]
SPLITS = ("train", "test")


def read_image(file: Path | io.BytesIO, name: object) -> Image.Image:
    """The whole image, RGB. Raises ``CourseError`` with its ``name`` when it is none or truncated."""
    try:
        return Image.open(file).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's for damaged files
        raise CourseError(f"{name} cannot be read as an image ({error}). Download it again.") from error


def checked(read: Callable[[Sequence[Path]], Arrays]) -> Callable[[Sequence[Path]], Arrays]:
    """``read`` with one clear error for whatever a damaged archive may raise."""
    def reader(paths: Sequence[Path]) -> Arrays:
        try:
            return read(paths)
        except CourseError:
            raise
        except Exception as error:
            raise CourseError(f"{', '.join(path.name for path in paths)}: not the published archive ({error}). Delete "
                              "it and download it again.") from error

    return reader


# CIFAR-10

CIFAR10_FOLDER = "cifar-10-batches-py"  # in the archive, and where torchvision unpacks it


class _ArrayUnpickler(pickle.Unpickler):
    """Reads CIFAR-10's batches and refuses everything that could execute code."""

    LEGAL = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.LEGAL:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no published batch does: refused")
        reconstruct = np.empty(0).__reduce__()[0]  # NumPy's own, wherever this version has it
        return reconstruct if name == "_reconstruct" else getattr(np, name)


def _read_cifar10(read: Callable[[str], bytes]) -> Arrays:
    def batch(file: str) -> tuple[np.ndarray, np.ndarray]:
        try:
            table = _ArrayUnpickler(io.BytesIO(read(file)), encoding="bytes").load()
            images = table[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)  # stored N x 3 x H x W
            return images, np.array(table[b"labels"], np.int64)
        except OSError:
            raise
        except Exception as error:  # whatever a damaged pickle may raise
            raise CourseError(f"{file} is no CIFAR-10 batch ({error}). Delete it and download the archive again."
                              ) from error

    train = [batch(f"data_batch_{k}") for k in range(1, 6)]
    test = batch("test_batch")
    return {"train_images": np.concatenate([images for images, _ in train]),
            "train_labels": np.concatenate([labels for _, labels in train]),
            "test_images": np.ascontiguousarray(test[0]), "test_labels": test[1]}


def read_cifar10_archive(paths: Sequence[Path]) -> Arrays:
    with tarfile.open(paths[0]) as tar:
        return _read_cifar10(lambda file: tar.extractfile(f"{CIFAR10_FOLDER}/{file}").read())


def read_cifar10_folder(folder: Path) -> Arrays:
    try:
        return _read_cifar10(lambda file: (folder / CIFAR10_FOLDER / file).read_bytes())
    except OSError as error:
        raise CourseError(f"{folder / CIFAR10_FOLDER} is incomplete: {error}. Delete it and unpack the archive again."
                          ) from error


# GTSRB

GTSRB_SIZE = 32  # pixels
GTSRB_CLASSES = (
    "speed limit 20", "speed limit 30", "speed limit 50", "speed limit 60", "speed limit 70", "speed limit 80",
    "end of speed limit 80", "speed limit 100", "speed limit 120", "no passing", "no passing for vehicles over 3.5 t",
    "right-of-way at the next intersection", "priority road", "yield", "stop", "no vehicles",
    "vehicles over 3.5 t prohibited", "no entry", "general caution", "dangerous curve to the left",
    "dangerous curve to the right", "double curve", "bumpy road", "slippery road", "road narrows on the right",
    "road work", "traffic signals", "pedestrians", "children crossing", "bicycles crossing", "beware of ice or snow",
    "wild animals crossing", "end of all speed and passing limits", "turn right ahead", "turn left ahead", "ahead only",
    "go straight or right", "go straight or left", "keep right", "keep left", "roundabout mandatory",
    "end of no passing", "end of no passing for vehicles over 3.5 t")
GTSRB_FIRST = 20  # Kaggle's Train.csv begins with this class, then 0 to 42


def read_gtsrb_kaggle(folder: Path) -> Arrays:
    """``Train/<class>/*.png``, ``Test/*.png``, ``Train.csv``, ``Test.csv``, in the order of the two tables."""
    arrays: Arrays = {}
    for split in SPLITS:
        table = folder / f"{split.title()}.csv"
        try:
            rows = _read_gtsrb_table(table.read_bytes(), table, ",", "Path")
        except OSError as error:
            raise CourseError(f"{table} cannot be read: {error.strerror}. Unpack the archive again.") from error
        outside = [name for name, _ in rows if Path(name).is_absolute() or ".." in Path(name).parts]
        if outside:
            raise CourseError(f"{table} names {outside[0]}, which is outside {folder}: refused.")
        missing = [name for name, _ in rows if not (folder / name).is_file()]
        if missing:
            raise CourseError(f"{table} names {folder / missing[0]}, which does not exist (and {len(missing) - 1} "
                              "more). Unpack the archive again.")
        arrays |= _gtsrb_arrays(split, rows, lambda name: read_image(folder / name, folder / name))
    return arrays


def read_gtsrb_archives(paths: Sequence[Path]) -> Arrays:
    """The benchmark's own files: PPM images and tables with semicolons."""
    with zipfile.ZipFile(paths[0]) as train, zipfile.ZipFile(paths[1]) as test, zipfile.ZipFile(paths[2]) as truth:
        rows = []
        for label in (GTSRB_FIRST, *(k for k in range(len(GTSRB_CLASSES)) if k != GTSRB_FIRST)):
            folder = f"GTSRB/Final_Training/Images/{label:05d}"
            table = f"{folder}/GT-{label:05d}.csv"
            rows += [(f"{folder}/{name}", row_label)
                     for name, row_label in _read_gtsrb_table(train.read(table), table, ";", "Filename")]
        arrays = _gtsrb_arrays("train", rows, lambda name: read_image(io.BytesIO(train.read(name)), name))
        table = "GT-final_test.csv"
        rows = [(f"GTSRB/Final_Test/Images/{name}", label)
                for name, label in _read_gtsrb_table(truth.read(table), table, ";", "Filename")]
        return arrays | _gtsrb_arrays("test", rows, lambda name: read_image(io.BytesIO(test.read(name)), name))


def _read_gtsrb_table(text: bytes, name: object, delimiter: str, column: str) -> list[tuple[str, int]]:
    """(file, label) of every row. Raises ``CourseError`` for a label outside 0..42 or none."""
    rows = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text.decode("utf-8-sig")), delimiter=delimiter), 2):
        try:
            file, label = row[column].strip(), int(row["ClassId"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise CourseError(f"{name}, line {number}: no {column} and ClassId ({error}).") from error
        if not 0 <= label < len(GTSRB_CLASSES):
            raise CourseError(f"{name}, line {number}: ClassId {label} of {file} is outside "
                              f"0..{len(GTSRB_CLASSES) - 1}. Correct it or download the table again.")
        rows.append((file, label))
    return rows


def _gtsrb_arrays(split: str, rows: Sequence[tuple[str, int]], read: Callable[[str], Image.Image]) -> Arrays:
    """Arrays of one split; for "train" also its tracks. The whole image is resized, as the published code does."""
    images = np.empty((len(rows), GTSRB_SIZE, GTSRB_SIZE, 3), np.uint8)
    for number, (name, _) in enumerate(rows):
        images[number] = read(name).resize((GTSRB_SIZE, GTSRB_SIZE), Image.Resampling.BILINEAR)
    arrays = {f"{split}_images": images, f"{split}_labels": np.array([label for _, label in rows], np.int64)}
    return arrays | ({"train_tracks": _number_tracks(rows)} if split == "train" else {})


def _number_tracks(rows: Iterable[tuple[str, int]]) -> np.ndarray:
    """int64 (N,): tracks numbered over all classes. A file is called [<class>_]<track>_<image>."""
    keys = []
    for name, label in rows:
        parts = Path(name).stem.split("_")
        if len(parts) < 2 or not parts[-2].isdigit():
            raise CourseError(f"{name}: its name does not contain its track, as 00007_00012.ppm does.")
        keys.append((label, int(parts[-2])))
    return np.unique(np.array(keys), axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)


# STL-10: four members of the published archive, which must have their published MD5

STL10_FOLDER = "stl10_binary"  # in the archive, and where torchvision unpacks it
STL10_SIZE = 96  # pixels
STL10_MEMBERS = {  # in the archive's order; torchvision names the same MD5
    "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82", "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
    "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f", "train_y.bin": "5a34089d4802c674881badbb80307741",
}


def _stl10_arrays(read: Callable[[str], bytes]) -> Arrays:
    """Images are stored channel by channel, column by column; labels from 1."""
    members = {name: read(name) for name in STL10_MEMBERS}
    for name, md5 in STL10_MEMBERS.items():
        if (found := hashlib.md5(members[name]).hexdigest()) != md5:
            raise CourseError(f"{name} has MD5 {found}, published is {md5}: damaged or another file. Delete it and "
                              "download it again.")
    arrays: Arrays = {}
    for split in SPLITS:
        images = np.frombuffer(members[f"{split}_X.bin"], np.uint8).reshape(-1, 3, STL10_SIZE, STL10_SIZE)
        arrays[f"{split}_images"] = np.ascontiguousarray(images.transpose(0, 3, 2, 1))
        arrays[f"{split}_labels"] = np.frombuffer(members[f"{split}_y.bin"], np.uint8).astype(np.int64) - 1
    return arrays


def read_stl10_folder(folder: Path) -> Arrays:
    try:
        return _stl10_arrays(lambda name: (folder / name).read_bytes())
    except OSError as error:
        raise CourseError(f"{folder} is incomplete: {error}. Delete it and unpack the archive again.") from error


def read_stl10_archive(paths: Sequence[Path]) -> Arrays:
    with tarfile.open(paths[0]) as tar:
        return _stl10_arrays(lambda name: tar.extractfile(f"{STL10_FOLDER}/{name}").read())
