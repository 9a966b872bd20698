"""What a source of images is, and what the readers of all data sets share.

Whatever its form, the arrays are the same: equal order, equal pixels. Files are never trusted: what they lack, or hold
too much, is an error that names the file.
"""
from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from course_utils.data.download import LARGEST
from course_utils.errors import CourseError

Arrays = dict[str, np.ndarray]
SPLITS = ("train", "test")


@dataclass(frozen=True)
class Archive:
    """A published file."""

    name: str
    md5: str | None  # None: not published; what it holds is checked when it is read
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
    members: Mapping[str, str] = field(default_factory=dict)  # the few of a large archive that are needed: name -> MD5
    second: tuple[Archive, ...] = ()  # the same in another form, as the last of the layouts reads it: the last resort


def read_image(file: Path | io.BytesIO, name: object) -> Image.Image:
    """The whole picture, RGB. Raises ``CourseError`` with its ``name`` when it is none or cut short."""
    try:
        return Image.open(file).convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:  # Pillow's for damaged files
        raise CourseError(f"{name} cannot be read as an image ({error}). Get it again.") from error


def read_member(tar: tarfile.TarFile, name: str) -> bytes:
    """A member of an archive, never unpacked. Raises ``CourseError`` when it is no plain file or larger than any of
    the course's is.
    """
    try:
        member = tar.getmember(name)
    except KeyError:
        raise CourseError(f"{tar.name} holds no {name}: it is not the published archive.") from None
    if not member.isfile() or member.size > LARGEST:
        raise CourseError(f"{name} of {tar.name} is no file, or of {member.size:,} bytes: refused.")
    return tar.extractfile(member).read()


def check_class_folders(folder: Path, names: Iterable[str]) -> None:
    """Raises ``CourseError`` unless ``folder`` holds exactly these folders, one a class."""
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
        check_class_folders(folder / split, classes)
        files = [(path, label) for label, name in enumerate(classes)
                 for path in sorted((folder / split / name).glob("*"))
                 if path.suffix.lower() in (".png", ".jpg", ".jpeg")]
        images = np.empty((len(files), side, side, 3), np.uint8)
        for row, (path, _) in enumerate(files):
            pixels = np.asarray(read_image(path, path))
            if pixels.shape != images.shape[1:]:
                raise CourseError(f"{path} is {pixels.shape[1]}x{pixels.shape[0]} pixels, not {side}x{side}.")
            images[row] = pixels
        arrays |= {f"{split}_images": images, f"{split}_labels": np.array([label for _, label in files], np.int64)}
    return arrays
