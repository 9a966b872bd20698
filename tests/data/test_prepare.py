"""Preparing CIFAR-10 from what is there, and opening prepared arrays."""
import dataclasses
import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
from helpers import change_dataset, write_cifar10_batches

from course_utils.data import DATASETS
from course_utils.data.info import data_root
from course_utils.data.prepare import open_prepared, prepare
from course_utils.errors import CourseError
from course_utils.utils import REPO


@pytest.fixture(autouse=True)
def small(monkeypatch):
    change_dataset(monkeypatch, "cifar10", counts={"train": 50, "test": 10})


def test_preparing_from_the_unpacked_folder(tmp_path):
    images, labels = write_cifar10_batches(tmp_path)
    folder = prepare("cifar10", tmp_path, log=lambda _: None)
    arrays, meta = open_prepared("cifar10", tmp_path)
    assert np.array_equal(arrays["train_images"], images[:50]) and np.array_equal(arrays["test_labels"], labels[50:])
    assert isinstance(arrays["train_images"], np.memmap)
    assert "Krizhevsky" in meta["source"] and "cifar-10-batches-py" in meta["source"]
    assert meta["counts"] == {"train": 50, "test": 10} and meta["classes"] == list(DATASETS["cifar10"].classes)
    messages = []
    assert prepare("cifar10", tmp_path, log=messages.append) == folder
    assert "prepared already" in messages[0]


def test_preparing_from_the_archive_with_the_right_md5(tmp_path, monkeypatch):
    images, _ = write_cifar10_batches(tmp_path / "elsewhere")
    archive = tmp_path / "root" / "cifar-10-python.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "elsewhere" / "cifar-10-batches-py", "cifar-10-batches-py")
    with pytest.raises(CourseError, match=r"has MD5 .*, published is"):
        prepare("cifar10", archive.parent)
    right = dataclasses.replace(DATASETS["cifar10"].archives[0], md5=hashlib.md5(archive.read_bytes()).hexdigest())
    change_dataset(monkeypatch, "cifar10", archives=(right,))
    prepare("cifar10", archive.parent, log=lambda _: None)
    assert np.array_equal(open_prepared("cifar10", archive.parent)[0]["test_images"], images[50:])


def test_the_error_names_everything_that_was_tried(tmp_path):
    with pytest.raises(CourseError, match=r"(?s)cifar-10-batches-py.*cifar-10-python\.tar\.gz.*by hand"):
        prepare("cifar10", tmp_path, log=lambda _: None)
    with pytest.raises(CourseError, match="Unknown data set: 'cifar'"):
        prepare("cifar", tmp_path)


def test_incomplete_data_is_not_prepared(tmp_path):
    write_cifar10_batches(tmp_path, each=9)
    with pytest.raises(CourseError, match=r"holds .*'train': 45.*not complete"):
        prepare("cifar10", tmp_path)
    assert not (tmp_path / "cifar10").exists()


def test_data_root(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_DATA", raising=False)
    assert data_root() == REPO / "data"
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    assert data_root() == tmp_path and data_root("elsewhere") == Path("elsewhere")
