"""Labelled STL-10: four members of the published archive, or the labelled-only mirror.

The archive has 2.64 GB, nearly all of it unlabelled pictures behind the labelled ones; it is read as a stream that
stops after about 0.3 GB. Whatever the way, the four members must have their published MD5.
"""
from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from course_utils.errors import CourseError
from course_utils.data.sources.base import SPLITS, Archive, Arrays, Layout, Source, read_image, read_member

STL10_SIDE = 96  # pixels
STL10_FOLDER = "stl10_binary"  # inside the archive, and where torchvision unpacks it
STL10_MEMBERS = {  # in the archive's order, with the MD5 of each, which torchvision names as well
    "test_X.bin": "7f263ba9f9e0b06b93213547f721ac82",
    "test_y.bin": "36f9794fa4beb8a2c72628de14fa638e",
    "train_X.bin": "918c2871b30a85fa023e0c44e0bee87f",
    "train_y.bin": "5a34089d4802c674881badbb80307741",
}


def _arrays(members: Mapping[str, bytes], where: object) -> Arrays:
    """Arrays from the members' bytes; pictures are stored channel by channel, column by column, labels from 1."""
    arrays: Arrays = {}
    for name, md5 in STL10_MEMBERS.items():
        found = hashlib.md5(members[name]).hexdigest()
        if found != md5:
            raise CourseError(f"{name} of {where} has MD5 {found}, published is {md5}: damaged or another file. "
                              "Delete it and get it again.")
    for split in SPLITS:
        images = np.frombuffer(members[f"{split}_X.bin"], np.uint8).reshape(-1, 3, STL10_SIDE, STL10_SIDE)
        arrays[f"{split}_images"] = np.ascontiguousarray(images.transpose(0, 3, 2, 1))
        arrays[f"{split}_labels"] = np.frombuffer(members[f"{split}_y.bin"], np.uint8).astype(np.int64) - 1
    return arrays


def stl10_members(arrays: Mapping[str, np.ndarray]) -> dict[str, bytes]:
    """The four published members that hold ``arrays``, byte for byte: how what came another way is checked."""
    members = {}
    for split in SPLITS:
        members[f"{split}_X.bin"] = np.ascontiguousarray(arrays[f"{split}_images"].transpose(0, 3, 2, 1)).tobytes()
        members[f"{split}_y.bin"] = (arrays[f"{split}_labels"] + 1).astype(np.uint8).tobytes()
    return members


def _read_folder(folder: Path) -> Arrays:
    try:
        members = {name: (folder / name).read_bytes() for name in STL10_MEMBERS}
    except OSError as error:
        raise CourseError(f"{folder} is incomplete: {error}. Delete it and unpack the archive again.") from error
    return _arrays(members, folder)


def _read_archive(paths: Sequence[Path]) -> Arrays:
    try:
        with tarfile.open(paths[0]) as tar:
            members = {name: read_member(tar, f"{STL10_FOLDER}/{name}") for name in STL10_MEMBERS}
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise CourseError(f"{paths[0]} is not the published archive: {error}. Delete it and get it again.") from error
    return _arrays(members, paths[0])


def _read_parquet(folder: Path) -> Arrays:
    """The mirror's two tables of encoded pictures and labels from 0; rebuilt members tell whether they are the same."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise CourseError(f"Reading the Parquet files in {folder} needs pyarrow:  pip install pyarrow") from None
    arrays: Arrays = {}
    for split in SPLITS:
        path = folder / STL10_PARQUET[split]
        try:
            table = pyarrow.parquet.read_table(path, columns=["image", "label"]).to_pydict()
        except (OSError, ValueError, KeyError) as error:  # pyarrow's own are ValueErrors and KeyErrors
            raise CourseError(f"{path} cannot be read ({error}). Delete it and get it again.") from error
        arrays[f"{split}_images"] = np.stack([np.asarray(read_image(io.BytesIO(cell["bytes"]), f"{path}, row {row}"))
                                              for row, cell in enumerate(table["image"])])
        arrays[f"{split}_labels"] = np.array(table["label"], np.int64)
    return _arrays(stl10_members(arrays), folder)


HUGGING_FACE = "https://huggingface.co/datasets/tanganke/stl10/resolve/main/data"  # labelled pictures alone
STL10_PARQUET = {split: f"{split}-00000-of-00001.parquet" for split in SPLITS}
STL10 = Source(
    classes=("airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"),
    side=STL10_SIDE,
    counts={"train": 5_000, "test": 8_000},
    archives=(Archive("stl10_binary.tar.gz", "91f7769df0f17e558f3565bffb0c7dfb",
                      ("http://ai.stanford.edu/~acoates/stl10/stl10_binary.tar.gz",)),),
    read=_read_archive,
    members=STL10_MEMBERS,
    layouts=(Layout(STL10_FOLDER, f"{STL10_FOLDER}/train_X.bin", _read_folder),
             Layout(STL10_FOLDER, f"stl10/{STL10_FOLDER}/train_X.bin", _read_folder),
             Layout("Parquet files of tanganke/stl10", f"stl10/{STL10_PARQUET['train']}", _read_parquet)),
    second=tuple(Archive(name, None, (f"{HUGGING_FACE}/{name}",)) for name in STL10_PARQUET.values()),
    citation="A. Coates, H. Lee, A. Ng, An Analysis of Single Layer Networks in Unsupervised Feature Learning, 2011",
)
