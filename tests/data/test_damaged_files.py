"""Row 6 for data, and fuzzing: whatever stands in a file, it is taken or refused by ``CourseError``; nothing else.

The short forms draw the same examples every time, the long ones others.
"""
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Hostile, cifar10_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from test_acquire import batches, python2_pickle
from test_record import finished
from test_sources_gtsrb import archives

from course_utils import config as experiment
from course_utils.data import prepare as acquire
from course_utils.reporting import record
from course_utils.runner import processes, status
from course_utils.training import checkpoint, lr_finder as range_test
from course_utils.augment.pipeline import BatchAugment
from course_utils.errors import CourseError
from course_utils.variants import load_experiment
from course_utils.data.sources import SOURCES, base, gtsrb

FEW, MANY = 60, pytest.param(4000, marks=pytest.mark.long)
examples = pytest.mark.parametrize("count", [FEW, MANY])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2**70, 2**70) | st.floats(allow_subnormal=False) | st.text(max_size=8)
    | st.sampled_from(["../../x", "/etc/passwd", "", "9" * 400]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3), max_leaves=6)
TOML = st.sampled_from(["nan", "-inf", "1e400", "-1", "0", "99999999999999999999", "true", '""', '"a"', '"../x"', "[]",
                        "{}", "[[]]", "[{}]", "[1, 2]", '{name = "x"}', '[{name = 3}]', "1979-05-27", "0.5", "2",
                        '[{name = "coarse_dropout", size = -3}]', '[{name = "horizontal_flip", p = 7}]'])


def fuzz(count, strategy, act):
    """``act`` on ``count`` values: it may succeed or raise ``CourseError``."""
    @settings(max_examples=count, deadline=None, derandomize=count == FEW, database=None,
              suppress_health_check=list(HealthCheck))
    @given(strategy)
    def tried(value):
        try:
            act(value)
        except CourseError as error:
            assert str(error)

    tried()


def damaged(data):
    """``data`` with some pieces overwritten, cut out, or put in."""
    piece = st.tuples(st.integers(0, len(data)), st.integers(0, 40), st.binary(max_size=40))

    def damage(pieces):
        out = bytearray(data)
        for begin, length, new in pieces:
            out[begin:begin + length] = new
        return bytes(out)

    return st.lists(piece, min_size=1, max_size=4).map(damage)


def altered(table):
    """A JSON ``table`` with something else in one place, or without what was there."""
    def places(part, path=()):
        yield path
        children = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
        for key, child in children:
            yield from places(child, (*path, key))

    def alter(change):
        path, value, remove = change
        if not path:
            return value
        out = json.loads(json.dumps(table))
        part = out
        for key in path[:-1]:
            part = part[key]
        if remove:
            del part[path[-1]]
        else:
            part[path[-1]] = value
        return out

    return st.tuples(st.sampled_from(list(places(table))), JSON, st.booleans()).map(alter)


@examples
@pytest.mark.parametrize("name", experiment.list_assignments())
def test_variants(count, name, tmp_path, monkeypatch):
    text = (experiment.ASSIGNMENTS / name / "variants.toml").read_text()
    lines = [k for k, line in enumerate(text.splitlines()) if " = " in line]
    monkeypatch.setattr(experiment, "ASSIGNMENTS", tmp_path)
    path = tmp_path / name / "variants.toml"
    path.parent.mkdir()

    def line_changed(change):
        out = text.splitlines()
        out[change[0]] = f"{out[change[0]].partition(' = ')[0]} = {change[1]}"
        return "\n".join(out).encode()

    def act(data):
        path.write_bytes(data)
        for variant in experiment.read_assignment(name)["variants"]:
            for profile in experiment.PROFILES:
                exp = load_experiment(name, variant, profile)
                for stage in exp.all_stages:
                    BatchAugment(stage.augmentation, (0.5,) * 3, (0.5,) * 3, stage.expansion)
                assert exp.table() and json.dumps(exp.as_dict())

    fuzz(count, damaged(text.encode()) | st.tuples(st.sampled_from(lines), TOML).map(line_changed), act)


@examples
def test_records(count, tmp_path):
    """Also under a right seal."""
    path, made = tmp_path / "record.json", json.loads(json.dumps(finished()))
    record.write(made, tmp_path)

    def act(value):
        if not isinstance(value, bytes):
            sealed = value | {"sha256": record.seal(value)} if isinstance(value, dict) else value
            value = json.dumps(sealed).encode()
        path.write_bytes(value)
        found = record.read(path)
        assert record.summary_markdown(found)
        record.changed_settings(found)

    fuzz(count, altered(made) | damaged(path.read_bytes()), act)


@examples
def test_prepared_arrays(count, tmp_path, monkeypatch):
    """``meta.json`` and the headers of the arrays."""
    batches(tmp_path / "cifar-10-batches-py", np.random.default_rng(0))
    cifar10_of(monkeypatch)
    folder = acquire.prepare("cifar10", tmp_path, log=lambda _: None)
    meta, labels = folder / "meta.json", folder / "test_labels.npy"
    good = {path: path.read_bytes() for path in (meta, labels)}

    def act(change):
        path, value = change
        for other, data in good.items():
            other.write_bytes(data)
        path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        acquire.open_prepared("cifar10", tmp_path)

    fuzz(count, st.tuples(st.just(meta), altered(json.loads(good[meta])) | damaged(good[meta]))
         | st.tuples(st.just(labels), damaged(good[labels][:128]).map(lambda head: head + good[labels][128:])), act)


@examples
def test_small_files_of_a_run(count, tmp_path, tiny):
    """What a batch, a training, a range test and a lock leave."""
    good = {"status.json": {"assignment": "a", "variant": "b", "seed": 0, "epochs": 3, "state": "running",
                            "message": "", "begun": 1.0, "seconds": 1.0, "accuracy": 0.5, "process": [1, 2.0]},
            "progress.json": {"epoch": 1, "accuracy": 0.5, "seconds": 2.0}, ".lock": [1, 2.0],
            "lr_range.json": {"lrs": [1.0, 2.0], "losses": [2.0, 1.0], "conditions": {}}}

    def act(change):
        name, value = change
        for other, table in good.items():
            (tmp_path / other).write_text(json.dumps(table))
        (tmp_path / name).write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
        status.rows([tmp_path])
        processes.at_work(tmp_path)
        kept = range_test._kept_range_test(tmp_path, {})
        assert kept is None or isinstance(kept.suggestion, float | None)

    fuzz(count, st.one_of([st.tuples(st.just(name), altered(table) | damaged(json.dumps(table).encode()))
                           for name, table in good.items()]), act)


@examples
def test_checkpoints(count, tmp_path):
    """Damaged as they are, and under the name that fits the damage."""
    path = checkpoint.save(tmp_path, 1, {"model": {"w": torch.ones(50)}, "history": [{"epoch": 1}], "best": None})
    good = path.read_bytes()
    path.unlink()

    def act(data):
        named = tmp_path / f"epoch-0001-{hashlib.sha256(data).hexdigest()[:checkpoint.DIGITS]}.pt"
        named.write_bytes(data)
        try:
            checkpoint.restore(named)
        finally:
            named.unlink()

    fuzz(count, damaged(good), act)


def tar_of(*members):
    """A .tar.gz of (name, kind, bytes or target of a link)."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, kind, content in members:
            info = tarfile.TarInfo(name)
            info.type = kind
            if kind == tarfile.REGTYPE:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
            else:
                info.linkname = content
                tar.addfile(info)
    return buffer.getvalue()


NAMES = ["cifar-10-batches-py/data_batch_1", "cifar-10-batches-py/test_batch", "stl10_binary/test_X.bin",
         "stl10_binary/../../test_X.bin", "../../climbed", "/tmp/climbed", "test_X.bin", "a.bin"]
MEMBERS = st.tuples(st.sampled_from(NAMES), st.sampled_from([tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE]),
                    st.sampled_from(["/etc/passwd", "../../../etc/passwd", "test_X.bin"]))
FILES = st.tuples(st.sampled_from(NAMES), st.just(tarfile.REGTYPE), st.binary(max_size=200))
TARS = st.lists(MEMBERS | FILES, max_size=4).map(lambda members: tar_of(*members))


@examples
@pytest.mark.parametrize("name", ["cifar10", "stl10"])
def test_tar_archives(count, name, tmp_path):
    """Paths that climb out and links that lead out are not followed; nothing is ever unpacked."""
    batches(tmp_path / "cifar-10-batches-py", np.random.default_rng(0), each=1)
    real = tar_of(*((f"cifar-10-batches-py/{path.name}", tarfile.REGTYPE, path.read_bytes())
                    for path in sorted((tmp_path / "cifar-10-batches-py").iterdir())))
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "archive.tar.gz"

    def act(data):
        path.write_bytes(data)
        SOURCES[name].read([path])

    fuzz(count, TARS | damaged(real), act)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@examples
def test_zip_archives(count, tmp_path):
    archives(tmp_path)
    paths = [tmp_path / archive.name for archive in SOURCES["gtsrb"].archives]
    good = paths[0].read_bytes()
    ends = len(good) - 4_000  # its directory; what comes before is pictures

    def act(data):
        paths[0].write_bytes(data)
        SOURCES["gtsrb"].read(paths)

    fuzz(count // 2, damaged(good[ends:]).map(lambda end: good[:ends] + end) | damaged(good), act)


@examples
def test_pickled_batches(count, tmp_path):
    images = np.zeros((2, 3072), np.uint8)
    folder = tmp_path / "cifar-10-batches-py"
    batches(folder, np.random.default_rng(0), each=1)

    def act(data):
        (folder / "data_batch_3").write_bytes(data)
        SOURCES["cifar10"].layouts[0].read(tmp_path)

    fuzz(count, damaged(python2_pickle({b"data": images, b"labels": [0, 1]})), act)


def test_a_hostile_batch_is_refused_unexecuted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    batches(tmp_path / "cifar-10-batches-py", np.random.default_rng(0))
    (tmp_path / "cifar-10-batches-py" / "data_batch_3").write_bytes(python2_pickle({b"data": Hostile()}))
    with pytest.raises(CourseError, match=r"data_batch_3 is no CIFAR-10 batch \(it asks for posix.system, as no real"):
        acquire.prepare("cifar10", tmp_path)
    assert not Path("harmed").exists()


def test_a_hostile_array_is_refused_unexecuted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    batches(tmp_path / "cifar-10-batches-py", np.random.default_rng(0))
    cifar10_of(monkeypatch)
    folder = acquire.prepare("cifar10", tmp_path, log=lambda _: None)
    np.save(folder / "test_labels.npy", np.array([Hostile()]), allow_pickle=True)
    with pytest.raises(CourseError, match="damaged arrays"):
        acquire.open_prepared("cifar10", tmp_path)
    assert not Path("harmed").exists()


def test_bombs_are_refused(tmp_path, monkeypatch):
    """Few bytes that stand for many: in a tar, in a zip, in a picture. Downloads: ``test_download.py``."""
    monkeypatch.setattr(base, "LARGEST", 1 << 20)
    monkeypatch.setattr(gtsrb, "LARGEST", 1 << 20)
    (tmp_path / "bomb.tar.gz").write_bytes(tar_of(("stl10_binary/test_X.bin", tarfile.REGTYPE, bytes(1 << 24))))
    with pytest.raises(CourseError, match="of 16,777,216 bytes: refused"):
        SOURCES["stl10"].read([tmp_path / "bomb.tar.gz"])
    archives(tmp_path)
    paths = [tmp_path / archive.name for archive in SOURCES["gtsrb"].archives]
    with zipfile.ZipFile(paths[2], "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr("GT-final_test.csv", bytes(1 << 24))
    with pytest.raises(CourseError, match="has 16,777,216 bytes: refused"):
        SOURCES["gtsrb"].read(paths)
    Image.new("1", (30_000, 30_000)).save(tmp_path / "bomb.png")
    assert (tmp_path / "bomb.png").stat().st_size < 1 << 20
    with pytest.raises(CourseError, match="cannot be read as an image"):
        base.read_image(tmp_path / "bomb.png", "bomb.png")
