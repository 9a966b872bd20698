"""A data set of the reader's own: pictures in a folder for each class, as ``torchvision.datasets.ImageFolder`` has it.

It is prepared like the published ones and opened under its name by ``open_dataset``. A result on it is never published.
"""
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from course_utils.data.datasets import channel_statistics
from course_utils.data.info import DATASETS, data_root
from course_utils.data.prepare import sha256, write_prepared
from course_utils.data.sources import Arrays, read_image
from course_utils.errors import CourseError

SMALLEST, LARGEST = 32, 96  # pixels of a prepared image; ``load_dataset`` resizes it to what a variant takes
TEST_SHARE = 0.2  # of the images of a class, where there is no folder of test images
TEST_FOLDERS = ("test", "testing", "val", "valid", "validation")
NOT_CLASSES = ("__MACOSX", "@eaDir")  # of macOS and of network drives; as hidden folders
SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}


def prepare_folder(name: str, source: Path, root: str | Path | None = None, log: Callable[[str], None] = print) -> Path:
    """Prepare the pictures in ``source`` as the data set ``name`` and return its folder.

    ``source`` holds a folder for each class, or ``train`` and one of ``TEST_FOLDERS`` which do. Without test images a
    fifth of each class becomes them, chosen by the SHA-256 of its pixels: equal pictures are never on both sides.
    Images become squares (the middle is cut out) of the median size, 32 to 96 pixels. Raises ``CourseError`` for a name
    that is taken, fewer than two classes, a class without training or test images, and a picture that cannot be read.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in DATASETS:
        raise CourseError(f"{name!r} cannot be the name of a data set of your own: use small letters, digits and _, "
                          f"and none of {', '.join(DATASETS)}.")
    folder = data_root(root) / name
    if (folder / "meta.json").exists():
        raise CourseError(f"{folder} is prepared already. Delete it to prepare it again.")
    if not source.is_dir():
        raise CourseError(f"There is no folder {source}.")
    parts = {path.name.lower(): path for path in source.iterdir() if path.is_dir()}
    train_home = parts.get("train") or parts.get("training")
    test_home = next((parts[part] for part in TEST_FOLDERS if part in parts), None)
    if test_home and not train_home and not parts.keys() - TEST_FOLDERS:
        raise CourseError(f"{source} has {test_home.name}, but no folder train.")
    train = _pictures(train_home or source)
    test = _pictures(test_home) if train_home and test_home else {}
    classes = tuple(sorted(train))
    if len(classes) < 2 or (test and test.keys() != train.keys()):
        found = f"{', '.join(classes) or 'none'}{'; test: ' * bool(test)}{', '.join(sorted(test))}"
        raise CourseError(f"{source} must hold a folder of pictures for each of at least two classes, the same for "
                          f"training and test images. Found: {found}.")
    shorter = [min(read_image(path).size) for paths in train.values() for path in paths[:20]]
    size = int(np.clip(np.median(shorter), SMALLEST, LARGEST))
    arrays = _arrays(train, classes, size)
    parts = {"train": arrays, "test": _arrays(test, classes, size)} if test else _split(*arrays, len(classes))
    prepared = {f"{split}_{kind}": array for split, pair in parts.items()
                for kind, array in zip(("images", "labels"), pair)}
    _check(prepared, classes, log)
    mean, std = channel_statistics(prepared["train_images"])
    write_prepared(folder, prepared, classes, f"own data, {len(classes)} folders of pictures", mean=mean, std=std)
    log(f"{name}: {len(classes)} classes, "
        f"{len(parts['train'][1])} train, {len(parts['test'][1])} test, {size}x{size} pixels -> {folder}")
    return folder


def _pictures(home: Path) -> dict[str, list[Path]]:
    """The picture files in each folder of ``home``, its subfolders included, sorted. Raises if a folder has none."""
    def is_shown(path: Path) -> bool:
        return not any(part.startswith(".") or part in NOT_CLASSES for part in path.relative_to(home).parts)

    folders = [path for path in sorted(home.glob("*")) if path.is_dir() and is_shown(path)]
    found = {path.name: [file for file in sorted(path.rglob("*")) if file.suffix.lower() in SUFFIXES
                         and file.is_file() and is_shown(file)] for path in folders}
    for name in (name for name, files in found.items() if not files):
        raise CourseError(f"{home / name} holds no pictures ({', '.join(sorted(SUFFIXES))}): remove or convert it.")
    return found


def _arrays(pictures: dict[str, list[Path]], classes: tuple[str, ...], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, size, size, 3), uint8, and labels (N,), int64."""
    files = [(path, label) for label, name in enumerate(classes) for path in pictures[name]]
    images = np.empty((len(files), size, size, 3), np.uint8)
    for number, (path, _) in enumerate(files):
        images[number] = ImageOps.fit(read_image(path), (size, size), Image.Resampling.BILINEAR)
    return images, np.array([label for _, label in files], np.int64)


def _hashes(images: np.ndarray) -> np.ndarray:
    return np.array([sha256(image) for image in images])


def _split(images: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    hashes, is_test = _hashes(images), np.zeros(len(labels), bool)
    for label in range(classes):
        different = np.unique(hashes[labels == label])  # sorted, equal pictures once
        is_test |= (labels == label) & np.isin(hashes, different[:max(1, round(TEST_SHARE * len(different)))])
    return {split: (images[chosen], labels[chosen]) for split, chosen in (("train", ~is_test), ("test", is_test))}


def _check(arrays: Arrays, classes: tuple[str, ...], log: Callable[[str], None]) -> None:
    for split in ("train", "test"):
        counts = np.bincount(arrays[f"{split}_labels"], minlength=len(classes))
        if not counts.all():
            raise CourseError(f"Class {classes[int(counts.argmin())]!r} has no {split} images: it needs at least two "
                              "different pictures.")
    if shared := len(np.intersect1d(_hashes(arrays["train_images"]), _hashes(arrays["test_images"]))):
        log(f"Warning: {shared} pictures are among both the training and the test images: the accuracy is too high.")
