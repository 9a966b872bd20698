"""Labeled STL-10 from its published members; a small stand-in of the same layout."""
import hashlib
import tarfile

import numpy as np
import pytest
from helpers import change_dataset

from course_utils.data.prepare import open_prepared, prepare
from course_utils.data.sources import ARCHIVE_READERS
from course_utils.errors import CourseError


@pytest.fixture
def small(monkeypatch):
    """Twenty images per split, whose files count as the published ones."""
    rng, arrays, members = np.random.default_rng(0), {}, {}
    for split in ("train", "test"):
        images = arrays[f"{split}_images"] = rng.integers(0, 256, (20, 96, 96, 3), np.uint8)
        labels = arrays[f"{split}_labels"] = rng.permutation(20).astype(np.int64) % 10
        members[f"{split}_X.bin"] = images.transpose(0, 3, 2, 1).tobytes()  # channel by channel, column by column
        members[f"{split}_y.bin"] = (labels + 1).astype(np.uint8).tobytes()
    change_dataset(monkeypatch, "stl10", counts={"train": 20, "test": 20},
                   members={name: hashlib.md5(data).hexdigest() for name, data in members.items()})
    return arrays, members


def unpack(members, folder):
    folder.mkdir(parents=True)
    for name, data in members.items():
        (folder / name).write_bytes(data)
    return folder


def assert_same(found, arrays):
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[key], arrays[key]) and found[key].dtype == arrays[key].dtype for key in arrays)


def test_the_folder_and_the_archive_give_the_same_arrays(small, tmp_path):
    arrays, members = small
    folder = unpack(members, tmp_path / "stl10" / "stl10_binary")
    prepare("stl10", tmp_path, log=lambda _: None)
    assert_same(open_prepared("stl10", tmp_path)[0], arrays)
    with tarfile.open(tmp_path / "stl10_binary.tar.gz", "w:gz") as tar:
        tar.add(folder, "stl10_binary")
    assert_same(ARCHIVE_READERS["stl10"]([tmp_path / "stl10_binary.tar.gz"]), arrays)


@pytest.mark.parametrize(("name", "change", "message"), [
    ("test_X.bin", lambda data: data[:-1] + b"\0", r"test_X\.bin has MD5 .*, published is"),
    ("train_y.bin", lambda data: data[:-1], r"train_y\.bin has MD5"),
])
def test_damaged_members_are_named(small, tmp_path, name, change, message):
    _, members = small
    unpack(members | {name: change(members[name])}, tmp_path / "stl10" / "stl10_binary")
    with pytest.raises(CourseError, match=message):
        prepare("stl10", tmp_path, log=lambda _: None)
    assert not (tmp_path / "stl10" / "meta.json").exists()


def test_after_a_failed_download_the_next_one_tries_again(small, tmp_path):
    messages = []
    for _ in range(2):
        with pytest.raises(CourseError, match="Could not get stl10"):  # no server in the tests
            prepare("stl10", tmp_path, log=messages.append)
    assert sum("downloading" in line for line in messages) == 2
