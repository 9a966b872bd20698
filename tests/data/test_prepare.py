import dataclasses
import hashlib
import io
import json
import pickle
import struct
import tarfile

import numpy as np
import pytest
from helpers import cifar10_of, flip_a_byte
from PIL import Image

from course_utils.data import prepare as acquire, sources
from course_utils.errors import CourseError

SOURCE = sources.SOURCES["cifar10"]


@pytest.fixture
def small(monkeypatch):
    cifar10_of(monkeypatch)


class Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as the published files hold them."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, data):
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def python2_pickle(table):
    buffer = io.BytesIO()
    Python2Pickler(buffer, 2).dump(table)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def batches(folder, rng, each=10):
    """The published layout, made as the published code made it: N x 3072 rows, channel by channel, byte keys."""
    folder.mkdir(parents=True)
    images = rng.integers(0, 256, (6 * each, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(6 * each) % 10
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        part = slice(each * k, each * k + each)
        rows = images[part].transpose(0, 3, 1, 2).reshape(each, 3072)
        (folder / name).write_bytes(python2_pickle({b"data": rows, b"labels": labels[part].tolist()}))
    return images, labels


def test_from_the_torchvision_layout_and_again(tmp_path, small):
    images, labels = batches(tmp_path / "cifar-10-batches-py", np.random.default_rng(0))
    folder = acquire.prepare("cifar10", tmp_path, log=lambda _: None)
    arrays, meta = acquire.open_prepared("cifar10", tmp_path)
    assert np.array_equal(arrays["train_images"], images[:50]) and np.array_equal(arrays["test_labels"], labels[50:])
    assert isinstance(arrays["train_images"], np.memmap)
    assert "Krizhevsky" in meta["source"] and "cifar-10-batches-py" in meta["source"]
    assert meta["counts"] == {"train": 50, "test": 10} and meta["classes"] == list(SOURCE.classes)
    said = []
    assert acquire.prepare("cifar10", tmp_path, log=said.append) == folder
    assert "prepared already" in said[0]


def test_from_the_archive(tmp_path, small, monkeypatch):
    images, _ = batches(tmp_path / "elsewhere" / "cifar-10-batches-py", np.random.default_rng(1))
    archive = tmp_path / "root" / SOURCE.archives[0].name
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "elsewhere" / "cifar-10-batches-py", "cifar-10-batches-py")
    with pytest.raises(CourseError, match="MD5"):
        acquire.prepare("cifar10", archive.parent)
    right = dataclasses.replace(SOURCE.archives[0], md5=hashlib.md5(archive.read_bytes()).hexdigest())
    monkeypatch.setitem(acquire.SOURCES, "cifar10", dataclasses.replace(acquire.SOURCES["cifar10"], archives=(right,)))
    acquire.prepare("cifar10", archive.parent, log=lambda _: None)
    assert np.array_equal(acquire.open_prepared("cifar10", archive.parent)[0]["test_images"], images[50:])


def image_folder(folder):
    for split, each in (("train", 5), ("test", 1)):
        for label, name in enumerate(SOURCE.classes):
            (folder / split / name).mkdir(parents=True)
            for k in range(each):
                Image.new("RGB", (32, 32), (label, k, 0)).save(folder / split / name / f"{k}.png")


def test_from_an_image_folder(tmp_path, small):
    image_folder(tmp_path / "cifar10")
    acquire.prepare("cifar10", tmp_path, log=lambda _: None)
    arrays, _ = acquire.open_prepared("cifar10", tmp_path)
    assert np.array_equal(arrays["train_labels"], np.repeat(np.arange(10), 5))
    assert np.array_equal(arrays["train_images"][:, 0, 0, 0], arrays["train_labels"])


@pytest.mark.parametrize(("harm", "said"), [
    (lambda f: (f / "train" / "dog").rename(f / "train" / "dogs"), r"missing \['dog'\], too many \['dogs'\]"),
    (lambda f: (f / "train" / "cat" / "0.png").write_bytes(b"\x89PNG cut"), r"cat.0\.png cannot be read"),
    (lambda f: Image.new("RGB", (30, 32)).save(f / "test" / "cat" / "0.png"), "30x32 pixels"),
    (lambda f: (f / "train" / "cat" / "0.png").unlink(), "not the whole data set"),
])
def test_a_faulty_image_folder_is_refused(tmp_path, small, harm, said):
    image_folder(tmp_path / "cifar10")
    harm(tmp_path / "cifar10")
    with pytest.raises(CourseError, match=said):
        acquire.prepare("cifar10", tmp_path)
    assert not (tmp_path / "cifar10" / "meta.json").exists()


def test_without_any_source_all_that_was_tried_is_named(tmp_path, small):
    with pytest.raises(CourseError, match=r"(?s)cifar-10-batches-py.*cifar10/train.*by hand"):
        acquire.prepare("cifar10", tmp_path, log=lambda _: None)


@pytest.mark.parametrize("content", [b"", b"\x80\x02garbage", pickle.dumps({b"labels": [1]}, 2)])
def test_a_damaged_batch_is_refused(tmp_path, small, content):
    batches(tmp_path / "cifar-10-batches-py", np.random.default_rng(0))
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(content)
    with pytest.raises(CourseError, match="data_batch_3"):
        acquire.prepare("cifar10", tmp_path)


@pytest.fixture
def prepared(tmp_path, small):
    batches(tmp_path / "cifar-10-batches-py", np.random.default_rng(0))
    return acquire.prepare("cifar10", tmp_path, log=lambda _: None)


def edit_meta(folder, **changes):
    meta = json.loads((folder / "meta.json").read_text())
    (folder / "meta.json").write_text(json.dumps(meta | changes))


@pytest.mark.parametrize(("harm", "said"), [
    (lambda f: (f / "meta.json").unlink(), "No prepared"),
    (lambda f: (f / "meta.json").write_text("{"), "damaged"),
    (lambda f: edit_meta(f, sha256=[1]), "damaged"),
    (lambda f: edit_meta(f, sha256={}), "lacks"),
    (lambda f: edit_meta(f, classes=["one"]), r"0\.\.0"),
    (lambda f: (f / "train_images.npy").unlink(), "damaged"),
    (lambda f: flip_a_byte(f / "train_images.npy"), "SHA-256"),
    (lambda f: np.save(f / "test_labels.npy", np.zeros(3, np.int64)), "one an image"),
    (lambda f: np.save(f / "test_images.npy", np.zeros((10, 32, 32), np.uint8)), "N x H x W x 3"),
])
def test_what_is_not_whole_is_not_opened(prepared, harm, said):
    harm(prepared)
    with pytest.raises(CourseError, match=said):
        acquire.open_prepared("cifar10", prepared.parent)


def test_an_interrupted_preparation_leaves_nothing_that_looks_complete(tmp_path, small, monkeypatch):
    batches(tmp_path / "cifar-10-batches-py", np.random.default_rng(0))
    written = []

    def third_fails(path, *parts, whole=acquire.atomic_write):
        if len(written) == 2:
            raise OSError(28, "No space left on device")
        written.append(path)
        whole(path, *parts)

    monkeypatch.setattr(acquire, "atomic_write", third_fails)
    with pytest.raises(CourseError, match="No space left"):
        acquire.prepare("cifar10", tmp_path)
    with pytest.raises(CourseError, match="No prepared"):
        acquire.open_prepared("cifar10", tmp_path)
    monkeypatch.undo()


def test_where_the_data_lies(monkeypatch, tmp_path, repo):
    monkeypatch.delenv("COURSE_DATA", raising=False)
    assert acquire.data_root() == repo / "data"
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    assert acquire.data_root() == tmp_path
    assert acquire.data_root("elsewhere") == acquire.Path("elsewhere")
