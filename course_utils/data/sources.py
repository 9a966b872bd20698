"""Reading the published files of the data sets into arrays: the same bytes from every form.

A file that is incomplete or damaged, or asks for code to be executed, is a ``CourseError`` that names it.
"""
import codecs
import csv
import functools
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, ImageOps

from course_utils.errors import CourseError

Arrays = dict[str, np.ndarray]
SPLITS = ("train", "test")
CIFAR10_FOLDER, STL10_FOLDER = "cifar-10-batches-py", "stl10_binary"  # in the archives, and where torchvision unpacks


def read_files(read: Callable[[Any], Arrays], files: Any) -> Arrays:
    """``read(files)``; whatever a damaged file makes it raise becomes one clear ``CourseError``."""
    try:
        return read(files)
    except CourseError:
        raise
    except Exception as error:
        names = ", ".join(map(str, files)) if isinstance(files, list) else files
        raise CourseError(f"{names}: not the published files, or damaged ({type(error).__name__}: {error}). Unpack "
                          "or download them again.") from error


class _ArrayUnpickler(pickle.Unpickler):
    """Reads CIFAR-10's batches and refuses everything that could execute code."""

    LEGAL = (("numpy.core.multiarray", "_reconstruct"), ("numpy", "ndarray"), ("numpy", "dtype"))

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.LEGAL:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no published batch does: refused")
        reconstruct = np.empty(0).__reduce__()[0]  # NumPy's own, wherever this version has it
        return reconstruct if name == "_reconstruct" else getattr(np, name)


def _cifar10(read: Callable[[str], bytes]) -> Arrays:
    arrays: Arrays = {}
    for split, names in (("train", [f"data_batch_{k}" for k in range(1, 6)]), ("test", ["test_batch"])):
        tables = [_ArrayUnpickler(io.BytesIO(read(name)), encoding="bytes").load() for name in names]
        images = np.concatenate([table[b"data"] for table in tables]).reshape(-1, 3, 32, 32)
        arrays[f"{split}_images"] = images.transpose(0, 2, 3, 1)
        arrays[f"{split}_labels"] = np.concatenate([np.array(table[b"labels"], np.int64) for table in tables])
    return arrays


def _stl10(read: Callable[[str], bytes]) -> Arrays:
    """Images are stored channel by channel, column by column; labels from 1."""
    arrays: Arrays = {}
    for split in SPLITS:
        images = np.frombuffer(read(f"{split}_X.bin"), np.uint8).reshape(-1, 3, 96, 96)
        arrays[f"{split}_images"] = np.ascontiguousarray(images.transpose(0, 3, 2, 1))
        arrays[f"{split}_labels"] = np.frombuffer(read(f"{split}_y.bin"), np.uint8).astype(np.int64) - 1
    return arrays


def _gtsrb_kaggle(folder: Path) -> Arrays:
    """``Train/<class>/*.png``, ``Test/*.png``, ``Train.csv``, ``Test.csv``, in the order of the two tables."""
    train, test = (_gtsrb_table((folder / f"{split}.csv").read_bytes(), ",", "Path") for split in ("Train", "Test"))
    return _gtsrb_arrays("train", train, folder.joinpath) | _gtsrb_arrays("test", test, folder.joinpath)


def _gtsrb_archives(paths: Sequence[Path]) -> Arrays:
    """The benchmark's own files: PPM images and tables with semicolons; classes in the order of Kaggle's table."""
    with zipfile.ZipFile(paths[0]) as train, zipfile.ZipFile(paths[1]) as test, zipfile.ZipFile(paths[2]) as truth:
        rows = []
        for label in (20, *range(20), *range(21, 43)):  # as Kaggle's Train.csv
            folder = f"GTSRB/Final_Training/Images/{label:05d}"
            table = _gtsrb_table(train.read(f"{folder}/GT-{label:05d}.csv"), ";", "Filename")
            rows += [(f"{folder}/{name}", row_label) for name, row_label in table]
        table = _gtsrb_table(truth.read("GT-final_test.csv"), ";", "Filename")
        return (_gtsrb_arrays("train", rows, train.open) | _gtsrb_arrays(
            "test", [(f"GTSRB/Final_Test/Images/{name}", label) for name, label in table], test.open))


def _gtsrb_table(text: bytes, delimiter: str, column: str) -> list[tuple[str, int]]:
    """(file, label) of every row; spreadsheets save tables as UTF-16 or with other line ends."""
    coding = "utf-16" if text[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig"
    lines = text.decode(coding).splitlines()
    delimiter = max(delimiter + ",;\t", key=lines[0].count)  # a spreadsheet may choose another
    return [(row[column].strip().replace("\\", "/"), int(row["ClassId"]))
            for row in csv.DictReader(lines, delimiter=delimiter)]


def _gtsrb_arrays(split: str, rows: Sequence[tuple[str, int]], find: Callable[[str], Path | IO[bytes]]) -> Arrays:
    """Arrays of one split; for "train" also its tracks. The whole image is resized, as the published code does."""
    images = np.empty((len(rows), 32, 32, 3), np.uint8)
    for number, (name, _) in enumerate(rows):
        try:
            image = read_image(find(name))
        except (CourseError, OSError) as error:
            raise CourseError(f"{name} cannot be read as an image ({error}). Unpack or download it again.") from error
        images[number] = image.resize((32, 32), Image.Resampling.BILINEAR)
    arrays = {f"{split}_images": images, f"{split}_labels": np.array([label for _, label in rows], np.int64)}
    if split == "train":  # a file is called [<class>_]<track>_<image>; tracks are numbered over all classes
        keys = np.array([(label, int(Path(name).stem.split("_")[-2])) for name, label in rows])
        arrays["train_tracks"] = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return arrays


def read_image(file: Path | IO[bytes]) -> Image.Image:
    """A picture file in RGB, upright as its EXIF data says. Raises ``CourseError``, also for one of 16 bits."""
    try:
        image = Image.open(file)
        if image.mode.startswith(("I", "F")):  # 16 bits: Pillow would make it white
            raise ValueError(f"mode {image.mode}, not 8 bits per channel")
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's for damaged files
        raise CourseError(f"{file} cannot be read as a picture: {error}") from error


def _read_tar(read: Callable[[Callable[[str], bytes]], Arrays], folder: str, paths: Sequence[Path]) -> Arrays:
    with tarfile.open(paths[0]) as tar:
        return read(lambda name: tar.extractfile(f"{folder}/{name}").read())


# Not torchvision.datasets.GTSRB: its training set is that of the competition's first phase, 26,640 images.
ARCHIVE_READERS: Mapping[str, Callable[[Sequence[Path]], Arrays]] = {
    "cifar10": functools.partial(_read_tar, _cifar10, CIFAR10_FOLDER), "gtsrb": _gtsrb_archives,
    "stl10": functools.partial(_read_tar, _stl10, STL10_FOLDER)}
LAYOUTS: Mapping[str, tuple[str, Callable[[Path], Arrays]]] = {  # a path in it, and the reader of its parent
    "cifar10": (CIFAR10_FOLDER, lambda home: _cifar10(lambda name: (home / CIFAR10_FOLDER / name).read_bytes())),
    "gtsrb": ("Train.csv", _gtsrb_kaggle),
    "stl10": (STL10_FOLDER, lambda home: _stl10(lambda name: (home / STL10_FOLDER / name).read_bytes()))}
