"""Labelled STL-10 from its published members, however they come; a small stand-in of the same layout."""
import dataclasses
import hashlib
import io
import tarfile

import numpy as np
import pytest
from helpers import file_size_limit
from PIL import Image

from course_utils.data import prepare as acquire
from course_utils.errors import CourseError
from course_utils.data.sources import SOURCES, stl10

SOURCE = SOURCES["stl10"]


@pytest.fixture
def small(monkeypatch):
    """Twenty images a split, whose members count as the published ones."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split in ("train", "test"):
        arrays[f"{split}_images"] = rng.integers(0, 256, (20, 96, 96, 3), np.uint8)
        arrays[f"{split}_labels"] = rng.permutation(20).astype(np.int64) % 10
    members = stl10.stl10_members(arrays)
    md5 = {name: hashlib.md5(data).hexdigest() for name, data in members.items()}
    monkeypatch.setattr(stl10, "STL10_MEMBERS", {name: md5[name] for name in stl10.STL10_MEMBERS})
    return arrays, members


def unpack(members, folder):
    folder.mkdir(parents=True)
    for name, data in members.items():
        (folder / name).write_bytes(data)
    return folder


def assert_same(found, arrays):
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[key], arrays[key]) and found[key].dtype == arrays[key].dtype for key in arrays)


def test_a_pixel_lies_where_the_publication_says(small):
    """Channel by channel, in each column by column: byte k * 9216 + x * 96 + y; labels from 1."""
    arrays, members = small
    raw = np.frombuffer(members["train_X.bin"], np.uint8)
    assert raw[2 * 9216 + 7 * 96 + 5] == arrays["train_images"][0, 5, 7, 2]
    assert members["train_y.bin"][3] == arrays["train_labels"][3] + 1


def test_from_the_unpacked_folder_and_from_the_archive(small, tmp_path):
    arrays, members = small
    folder = unpack(members, tmp_path / "stl10_binary")
    assert_same(SOURCE.layouts[0].read(folder), arrays)
    with tarfile.open(tmp_path / "stl10_binary.tar.gz", "w:gz") as tar:
        tar.add(folder, "stl10_binary")
    assert_same(SOURCE.read([tmp_path / "stl10_binary.tar.gz"]), arrays)


def test_from_the_labelled_only_mirror(small, tmp_path):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    arrays, _ = small
    for split in ("train", "test"):
        cells = []
        for image in arrays[f"{split}_images"]:
            Image.fromarray(image).save(buffer := io.BytesIO(), "PNG")
            cells.append({"bytes": buffer.getvalue(), "path": None})
        table = pyarrow.table({"image": cells, "label": arrays[f"{split}_labels"]})
        parquet.write_table(table, tmp_path / stl10.STL10_PARQUET[split])
    assert_same(SOURCE.layouts[2].read(tmp_path), arrays)


@pytest.mark.parametrize(("name", "harm", "said"), [
    ("test_X.bin", lambda data: data[:-1] + b"\0", r"test_X\.bin of .* has MD5 .*, published is"),
    ("train_y.bin", lambda data: data[:-1], r"train_y\.bin of .* has MD5"),
    ("train_X.bin", None, "incomplete"),
])
def test_a_damaged_member_is_named(small, tmp_path, name, harm, said):
    _, members = small
    folder = unpack({key: data for key, data in members.items() if key != name}, tmp_path / "stl10_binary")
    if harm:
        (folder / name).write_bytes(harm(members[name]))
    with pytest.raises(CourseError, match=said):
        SOURCE.layouts[0].read(folder)


def test_not_the_whole_set_is_not_prepared(small, tmp_path):
    _, members = small
    unpack(members, tmp_path / "stl10_binary")
    with pytest.raises(CourseError, match="not the whole data set"):
        acquire.prepare("stl10", tmp_path, log=lambda _: None)
    assert not (tmp_path / "stl10").exists()


def test_a_full_disk_leaves_nothing_half_prepared(small, tmp_path, monkeypatch):
    arrays, members = small
    unpack(members, tmp_path / "stl10" / "stl10_binary")
    twenty = dataclasses.replace(SOURCE, counts={"train": 20, "test": 20})
    monkeypatch.setitem(acquire.SOURCES, "stl10", twenty)
    before = {path: path.stat().st_size for path in (tmp_path / "stl10").rglob("*")}
    with file_size_limit(100_000), pytest.raises(CourseError, match=r"Could not write .*Nothing half-done"):
        acquire.prepare("stl10", tmp_path)  # labels fit, images do not
    assert {path: path.stat().st_size for path in (tmp_path / "stl10").rglob("*")} == before
    acquire.prepare("stl10", tmp_path, lambda _: None)
    assert_same({key: np.array(array) for key, array in acquire.open_prepared("stl10", tmp_path)[0].items()}, arrays)
