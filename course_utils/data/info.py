"""Facts about the data sets: the published ones' from ``datasets.toml``, those of own data from its ``meta.json``."""
import contextlib
import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from course_utils.errors import unknown_name_error
from course_utils.utils import REPO


@dataclass(frozen=True)
class Archive:
    """A published file."""

    name: str
    md5: str
    mirrors: tuple[str, ...]  # URLs of this file, byte for byte


@dataclass(frozen=True)
class DatasetInfo:
    """The constants of a data set."""

    title: str
    citation: str
    image_size: int  # pixels; images are square
    mean: tuple[float, float, float]  # for normalization, RGB, 0 to 1
    std: tuple[float, float, float]
    counts: Mapping[str, int]  # images per split
    sha256: Mapping[str, str]  # of the published arrays
    classes: tuple[str, ...]  # in the order of the labels
    archives: tuple[Archive, ...]
    members: Mapping[str, str] = field(default_factory=dict)  # the needed part of a large archive: file name -> MD5
    has_tracks: bool = False  # whether it is known which images show one physical object


def _read(table: dict) -> DatasetInfo:
    lists = {name: tuple(table[name]) for name in ("mean", "std", "classes")}
    archives = tuple(Archive(each["name"], each["md5"], tuple(each["mirrors"])) for each in table["archives"])
    return DatasetInfo(**table | lists | {"archives": archives})


def data_root(root: str | Path | None = None) -> Path:
    """The folder of all data sets: ``root``, else ``$COURSE_DATA``, else ``data/`` in the repository."""
    return Path(root or os.environ.get("COURSE_DATA") or REPO / "data").expanduser()


OWN_FACTS = {"mean", "std", "sha256", "source", "image_size", "counts", "classes"}  # of own data, in its meta.json


class _Datasets(dict):
    """The published data sets; one of the reader's own (``data.own``) is looked up in ``data_root()`` each time."""

    def __missing__(self, name: str) -> DatasetInfo:
        found = {}
        for path in data_root().glob("*/meta.json"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                meta = json.loads(path.read_text(encoding="utf-8"))
                found |= {path.parent.name: meta} if meta.keys() >= OWN_FACTS else {}
        if name not in found:
            raise unknown_name_error("data set", name, [*self, *found])
        meta = found[name]
        number = hashlib.sha256("".join(meta["sha256"].values()).encode()).hexdigest()
        return DatasetInfo(f"{name} (own data, {number[:7]})", meta["source"], meta["image_size"], tuple(meta["mean"]),
                           tuple(meta["std"]), meta["counts"], meta["sha256"], tuple(meta["classes"]), archives=())


DATASETS: Mapping[str, DatasetInfo] = _Datasets(
    (name, _read(table))
    for name, table in tomllib.loads(Path(__file__).with_name("datasets.toml").read_text(encoding="utf-8")).items())
