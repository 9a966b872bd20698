import pytest
import torch

from course_utils.training import checkpoint
from course_utils.errors import CourseError

STATE = {"model": {"w": torch.arange(5.0)}, "history": [{"epoch": 1, "loss": 0.5}], "best": None}


def test_there_and_back(tmp_path):
    path = checkpoint.save(tmp_path, 1, STATE)
    loaded = checkpoint.restore(path)
    assert torch.equal(loaded["model"]["w"], STATE["model"]["w"]) and loaded["history"] == STATE["history"]
    assert torch.load(path, weights_only=True)["best"] is None


def test_the_newest_few_stay(tmp_path):
    for epoch in (1, 2, 3, 11):
        checkpoint.save(tmp_path, epoch, {"epoch": epoch})
    assert [checkpoint.restore(path)["epoch"] for path in checkpoint.list_checkpoints(tmp_path)] == [3, 11]
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".pt", ".pt"]


@pytest.mark.parametrize("harm", [
    lambda data: data[:-100], lambda data: bytes([data[0] ^ 1]) + data[1:], lambda data: data[:0],
])
def test_a_damaged_one_is_said_and_passed_over(tmp_path, harm):
    checkpoint.save(tmp_path, 1, {"epoch": 1})
    newest = checkpoint.save(tmp_path, 2, {"epoch": 2})
    newest.write_bytes(harm(newest.read_bytes()))
    with pytest.raises(CourseError, match="SHA-256"):
        checkpoint.restore(newest)
    said = []
    assert checkpoint.latest(tmp_path, said.append)["epoch"] == 1
    assert newest.name in said[0]


def test_none_at_all(tmp_path):
    assert checkpoint.latest(tmp_path) is None


def test_a_write_that_fails_leaves_the_old_one_whole(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, 1, {"epoch": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(CourseError, match="No space left"):
        checkpoint.save(tmp_path, 2, {"epoch": 2})
    assert checkpoint.latest(tmp_path)["epoch"] == 1
    assert len(list(tmp_path.iterdir())) == 1
