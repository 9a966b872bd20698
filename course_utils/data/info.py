"""Facts about the data sets, read from ``datasets.toml``."""
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from course_utils.errors import unknown_name_error


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


class _Datasets(dict):
    def __missing__(self, name: str) -> DatasetInfo:
        raise unknown_name_error("data set", name, self)


DATASETS: Mapping[str, DatasetInfo] = _Datasets(
    (name, _read(table))
    for name, table in tomllib.loads(Path(__file__).with_name("datasets.toml").read_text(encoding="utf-8")).items())
