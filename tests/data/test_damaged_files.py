"""Damaged and hostile files: each is a ``CourseError`` that names the file, and no code in it is executed."""
import json
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import Hostile, change_dataset, flip_a_byte, python2_pickle, write_cifar10_batches

from course_utils.data.prepare import open_prepared, prepare
from course_utils.data.sources import ARCHIVE_READERS, read_files
from course_utils.errors import CourseError


@pytest.fixture(autouse=True)
def batches(tmp_path, monkeypatch):
    """The folder of CIFAR-10's six files, with few images; the working folder is its parent."""
    change_dataset(monkeypatch, "cifar10", counts={"train": 50, "test": 10})
    monkeypatch.chdir(tmp_path)
    write_cifar10_batches(tmp_path)
    return tmp_path / "cifar-10-batches-py"


@pytest.mark.parametrize("content", [
    b"", b"\x80\x02garbage", pickle.dumps({b"labels": [1]}, 2), python2_pickle({b"data": [1], b"labels": [0]}),
    python2_pickle({b"data": np.zeros((10, 3071), np.uint8), b"labels": [0] * 10})])
def test_damaged_batches_are_rejected(batches, tmp_path, content):
    (batches / "data_batch_3").write_bytes(content)
    with pytest.raises(CourseError, match=r"not the published files, or damaged .*Unpack"):
        prepare("cifar10", tmp_path, log=lambda _: None)
    assert not (tmp_path / "cifar10").exists()


def test_hostile_pickles_are_not_executed(batches, tmp_path):
    (batches / "data_batch_3").write_bytes(python2_pickle({b"data": Hostile()}))
    with pytest.raises(CourseError, match=r"it asks for posix.system, which no published batch does: refused"):
        prepare("cifar10", tmp_path, log=lambda _: None)
    assert not Path("harmed").exists()


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_truncated_archives_are_rejected(batches, tmp_path, share):
    with tarfile.open("whole.tar.gz", "w:gz") as tar:
        tar.add(batches, "cifar-10-batches-py")
    data = Path("whole.tar.gz").read_bytes()
    cut = tmp_path / "cut.tar.gz"
    cut.write_bytes(data[:int(share * len(data))])
    with pytest.raises(CourseError, match=r"cut\.tar\.gz: not the published files, or damaged"):
        read_files(ARCHIVE_READERS["cifar10"], [cut])


def edit_meta(folder, **changes):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | changes))


@pytest.mark.parametrize(("change", "message"), [
    (lambda f: (f / "meta.json").unlink(), "No prepared"),
    (lambda f: (f / "meta.json").write_text("{"), "damaged"),
    (lambda f: (f / "meta.json").write_text("3"), "damaged"),
    (lambda f: edit_meta(f, sha256=[1]), "damaged"),
    (lambda f: edit_meta(f, sha256={}), "damaged"),
    (lambda f: edit_meta(f, classes=["one"]), r"0\.\.0"),
    (lambda f: (f / "train_images.npy").unlink(), "damaged"),
    (lambda f: (f / "train_images.npy").write_bytes((f / "train_images.npy").read_bytes()[:-1]), "damaged"),
    (lambda f: flip_a_byte(f / "train_images.npy"), "SHA-256"),
    (lambda f: np.save(f / "test_labels.npy", np.zeros(3, np.int64)), "one per image"),
    (lambda f: np.save(f / "test_images.npy", np.zeros((10, 32, 32), np.uint8)), "N x H x W x 3"),
    (lambda f: np.save(f / "test_labels.npy", np.array([Hostile()]), allow_pickle=True), "damaged"),
])
def test_changed_prepared_arrays_are_not_opened(tmp_path, change, message):
    change(prepare("cifar10", tmp_path, log=lambda _: None))
    with pytest.raises(CourseError, match=message):
        open_prepared("cifar10", tmp_path)
    assert not Path("harmed").exists()
