"""GTSRB from the benchmark's own archives, or from the Kaggle folder.

Not torchvision.datasets.GTSRB: its training set is that of the competition's first phase, 26,640 images.
"""
from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from course_utils.data.download import LARGEST
from course_utils.errors import CourseError
from course_utils.data.signs import SIGNS
from course_utils.data.sources.base import SPLITS, Archive, Arrays, Layout, Source, check_class_folders, read_image

GTSRB_SIDE = 32  # pixels
GTSRB_FIRST = 20  # Kaggle's Train.csv begins with this class, then 0 to 42
ERDA = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370"  # where the benchmark's page points
INI = "https://benchmark.ini.rub.de/Dataset"  # the benchmark's older address


def _read_gtsrb_kaggle(folder: Path) -> Arrays:
    """``Train/<class>/*.png``, ``Test/*.png``, ``Train.csv``, ``Test.csv``, in the order of the two tables."""
    check_class_folders(folder / "Train", [str(label) for label in range(len(SIGNS))])
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
        arrays |= _gtsrb_split(split, rows, lambda name: read_image(folder / name, folder / name))
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
                text = _member(train, table)
                rows += [(f"{where}/{name}", own) for name, own in _table(text, table, ";", "Filename")]
            arrays |= _gtsrb_split("train", rows, lambda name: read_image(io.BytesIO(_member(train, name)), name))
            table = "GT-final_test.csv"
            rows = [(f"GTSRB/Final_Test/Images/{name}", own)
                    for name, own in _table(_member(truth, table), table, ";", "Filename")]
            arrays |= _gtsrb_split("test", rows, lambda name: read_image(io.BytesIO(_member(test, name)), name))
    except CourseError:
        raise
    except Exception as error:  # whatever a damaged zip, and what it holds, may raise
        raise CourseError(f"{', '.join(path.name for path in paths)} are not the published archives: {error}. "
                          "Delete them and get them again.") from error
    return arrays


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member of an archive, never unpacked. Raises ``CourseError`` for one larger than any that the course reads."""
    if archive.getinfo(name).file_size > LARGEST:
        raise CourseError(f"{name} of {archive.filename} has {archive.getinfo(name).file_size:,} bytes: refused.")
    return archive.read(name)


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


GTSRB = Source(
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
)
