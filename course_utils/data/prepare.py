"""Preparing a data set: from files that are there already, or by download.

Prepared arrays are ``<root>/<name>/{train,test}_images.npy`` (uint8 N x H x W x 3, RGB), ``{train,test}_labels.npy``
(int64) and ``meta.json``, which is written last: without it nothing is prepared.
"""
import hashlib
import io
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.data.download import download, download_members, file_md5
from course_utils.data.info import DATASETS, data_root
from course_utils.data.sources import ARCHIVE_READERS, LAYOUTS, SPLITS, Arrays, read_files
from course_utils.errors import CourseError, DiskFullError, check_names
from course_utils.utils import atomic_write, disk_error


def sha256(array: np.ndarray) -> str:
    """SHA-256 of the array's bytes in C order, as hexadecimal digits."""
    return hashlib.sha256(np.ascontiguousarray(array)).hexdigest()


def open_prepared(name: str, root: Path) -> tuple[Arrays, dict[str, Any]]:
    """Prepared arrays, memory-mapped, and their ``meta.json``.

    Raises ``CourseError`` when they are missing, of another form, or not those whose SHA-256 ``meta.json`` names.
    """
    folder = root / name
    if not (folder / "meta.json").is_file():
        raise CourseError(
            f"No prepared {name} in {folder}. Get it with:  python -m course_utils data {name} --root {root}\n"
            "or name another folder by DATA_DIR, --root or the environment variable COURSE_DATA. "
            "(PROFILE = 'smoke' runs on synthetic data and needs none.)")
    try:
        meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
        arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r", allow_pickle=False) for key in meta["sha256"]}
        _check_arrays(arrays, folder, len(meta["classes"]))
    except CourseError:
        raise
    except Exception as error:  # whatever NumPy may raise for a damaged header
        raise CourseError(f"{folder} holds damaged arrays ({error!r}). Delete it and prepare again.") from error
    for key, array in arrays.items():
        if sha256(array) != meta["sha256"][key]:
            raise CourseError(f"{folder / key}.npy is not the array that its meta.json names (SHA-256 differs): it was "
                              "changed or damaged. Delete the folder and prepare again.")
    return arrays, meta


def _check_arrays(arrays: Arrays, where: str | Path, classes: int) -> None:
    for split in SPLITS:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
            raise CourseError(f"{where}: {split}_images must be uint8 N x H x W x 3: {images.dtype} {images.shape}.")
        if labels.dtype != np.int64 or labels.shape != images.shape[:1] or not len(labels):
            raise CourseError(f"{where}: {split}_labels must be int64, one per image: {labels.dtype} {labels.shape}.")
        if labels.min() < 0 or labels.max() >= classes:
            raise CourseError(f"{where}: {split}_labels must be in 0..{classes - 1}.")


def prepare(name: str, root: str | Path | None = None, log: Callable[[str], None] = print) -> Path:
    """Make the prepared arrays of ``name`` and return their folder; what exists already is checked and kept.

    Looks in ``root`` and ``root/name`` for unpacked files (``sources.LAYOUTS``), then for the published archives, and
    downloads them otherwise. Raises ``CourseError`` that names all it tried.
    """
    root, info = data_root(root), DATASETS[name]
    folder = root / name
    if (folder / "meta.json").exists():
        open_prepared(name, root)
        log(f"{name}: prepared already, SHA-256 checked: {folder}")
        return folder
    arrays, origin = _find(name, root, log)
    counts = {split: len(arrays[f"{split}_labels"]) for split in SPLITS}
    if counts != info.counts:
        raise CourseError(f"{origin} holds {counts} images, {name} has {info.counts}: it is not complete.")
    _check_arrays(arrays, origin, len(info.classes))
    if any(sha256(array) != info.sha256[key] for key, array in arrays.items()):
        log(f"Warning: these are not the published arrays of {name} (SHA-256): results on them are labeled OTHER DATA.")
    write_prepared(folder, arrays, info.classes, f"{info.citation}; from {origin}")
    log(f"{name}: {counts['train']} train, {counts['test']} test -> {folder}")
    return folder


def _find(name: str, root: Path, log: Callable[[str], None]) -> tuple[Arrays, str]:
    """The arrays and where they are from."""
    check_names("data set to download", [name], LAYOUTS)
    info, (marker, read) = DATASETS[name], LAYOUTS[name]
    published = ", ".join(archive.name for archive in info.archives)
    for place in (root / name, root):
        members = {place / marker / member: md5 for member, md5 in info.members.items()}
        if (place / marker).exists() and all(path.is_file() for path in members):
            _check_md5(members)
            return read_files(read, place), marker
    found = {archive.name: place / archive.name for place in (root, root / name) for archive in info.archives
             if (place / archive.name).is_file()}
    if len(found) == len(info.archives):
        return _read_archives(found, name), published
    _raise_for_misplaced(name, root)
    if (root / name / "GTSRB" / "Training").is_dir():  # unpacked by torchvision.datasets.GTSRB
        log("This is torchvision's folder: its 26,640 training images are those of another competition. Of its "
            "archives, those of the test images are used.")
    log(f"{name}: nothing found in {root}; downloading {', '.join(info.members) or published}")
    try:
        if info.members:
            download_members(info.archives[0].mirrors, root / name / marker, info.members, log)
            return read_files(read, root / name), published
        for archive in info.archives:
            download(archive.mirrors, found.setdefault(archive.name, root / archive.name), archive.md5, log)
        return _read_archives(found, name), published
    except DiskFullError:
        raise
    except CourseError as error:
        raise CourseError(
            f"Could not get {name}. Looked in {root} for prepared arrays, {marker} and {published}; "
            f"then tried to download:\n{error}\nDownload {published} by hand, put it into {root} and run this again."
        ) from error


def _raise_for_misplaced(name: str, root: Path) -> None:
    """Raise ``CourseError`` when the files lie one folder too deep, or in small letters: no need to download them."""
    home, marker = root / name, LAYOUTS[name][0]
    for path in [path for folder in (home, root) for pattern in ("*", "*/*") for path in sorted(folder.glob(pattern))]:
        if path.name.lower() == marker.lower() and (path.name != marker or path.parent not in (home, root)):
            raise CourseError(f"{path} looks like {name}: move it, with what lies beside it, into {home}, and give it "
                              f"the published name {marker}. Then run this again; nothing was downloaded.")


def _read_archives(found: Mapping[str, Path], name: str) -> Arrays:
    paths = {found[archive.name]: archive.md5 for archive in DATASETS[name].archives}
    _check_md5(paths)
    return read_files(ARCHIVE_READERS[name], list(paths))


def _check_md5(files: Mapping[Path, str]) -> None:
    for path, md5 in files.items():
        if (found := file_md5(path)) != md5:
            raise CourseError(f"{path} has MD5 {found}, published is {md5}: damaged. Delete it and try again.")


def write_prepared(folder: Path, arrays: Mapping[str, np.ndarray], classes: tuple[str, ...], origin: str,
                   **more: Any) -> None:
    """Write prepared arrays; ``meta.json``, with ``more`` in it, comes last. Raises ``CourseError`` when the disk
    refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key, array in arrays.items():
            np.save(buffer := io.BytesIO(), array, allow_pickle=False)
            atomic_write(folder / f"{key}.npy", buffer.getbuffer())
        meta = {"name": folder.name, "image_size": arrays["train_images"].shape[1], "classes": list(classes),
                "counts": {split: len(arrays[f"{split}_labels"]) for split in SPLITS}, "source": origin,
                "sha256": {key: sha256(array) for key, array in arrays.items()}, **more}
        atomic_write(folder / "meta.json", json.dumps(meta, indent=2) + "\n")
    except OSError as error:
        for key in arrays:
            (folder / f"{key}.npy").unlink(missing_ok=True)
        raise CourseError(f"Could not write {folder}: {disk_error(error, folder)}. No partial files are left there; "
                          "free some space or choose another --root, and run again.") from error
