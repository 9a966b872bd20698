"""Getting a data set: from prepared arrays, from files already downloaded, or by download.

Whatever the source, the result is the prepared arrays (see ``datasets.py``) under ``<root>/<name>/``. ``meta.json`` is
written last and only after every array lies complete on the disk: without it, nothing counts as prepared.
"""
from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.data.download import fetch, fetch_members, file_md5
from course_utils.errors import CourseError, NoRoom, unknown
from course_utils.utils import REPO, refusal, write_whole
from course_utils.data.sources import SOURCES
from course_utils.data.sources.base import SPLITS, Arrays, Source

KEYS = ("train_images", "train_labels", "test_images", "test_labels")


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
    except Exception as error:  # whatever NumPy may find wrong with a damaged header
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

    Looks in ``root`` for prepared arrays, files that somebody has unpacked (the layouts in ``sources``), the
    published archives, and downloads them otherwise. Raises ``CourseError`` naming all it tried.
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
    for layout in source.layouts:
        if (root / layout.marker).exists():
            return layout.read((root / layout.marker).parent), layout.what
    published = ", ".join(archive.name for archive in source.archives)
    for folder in (root, root / name):
        if all((folder / archive.name).is_file() for archive in source.archives):
            return _read_archives(folder, source), published
    say(f"{name}: nothing found in {root}; downloading {', '.join(source.members) or published}")
    tried = []
    for get in (_download_published, *([_download_second] if source.second else [])):
        try:
            return get(root, source, say)
        except NoRoom:
            raise
        except CourseError as error:
            tried.append(str(error))
    looked, refused = ", ".join(layout.marker for layout in source.layouts), "\n".join(tried)
    raise CourseError(f"Could not get {name}. Looked in {root} for prepared arrays, {looked} and {published}; then "
                      f"tried to download:\n{refused}\nDownload {published} by hand, put it into {root} and run this "
                      "again.")


def _download_published(root: Path, source: Source, say: Callable[[str], None]) -> tuple[Arrays, str]:
    names = ", ".join(archive.name for archive in source.archives)
    if source.members:  # unpacked, they are the first of the layouts
        home = (root / source.layouts[0].marker).parent
        fetch_members(source.archives[0].mirrors, home, source.members, say)
        return source.layouts[0].read(home), names
    for archive in source.archives:
        fetch(archive.mirrors, root / archive.name, archive.md5, say)
    return _read_archives(root, source), names


def _download_second(root: Path, source: Source, say: Callable[[str], None]) -> tuple[Arrays, str]:
    layout = source.layouts[-1]
    home = (root / layout.marker).parent
    for archive in source.second:
        fetch(archive.mirrors, home / archive.name, archive.md5, say)
    return layout.read(home), layout.what


def _read_archives(folder: Path, source: Source) -> Arrays:
    for archive in source.archives:
        found = file_md5(folder / archive.name)
        if found != archive.md5:
            raise CourseError(f"{folder / archive.name} has MD5 {found}, published is {archive.md5}: damaged. "
                              "Delete it and try again.")
    return source.read([folder / archive.name for archive in source.archives])


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
        for key in arrays:
            (folder / f"{key}.npy").unlink(missing_ok=True)
        raise CourseError(f"Could not write {folder}: {refusal(error, folder)}. Nothing half-done is left there; "
                          "make room or choose another --root and run again.") from error
