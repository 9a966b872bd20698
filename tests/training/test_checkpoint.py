import json
import os

import pytest
import torch
from helpers import file_size_limit, flip_a_byte

from course_utils.errors import CourseError
from course_utils.training.checkpoint import (
    list_checkpoints,
    load_checkpoint,
    load_latest,
    save_checkpoint,
    write_progress,
)

STATE = {"model": {"w": torch.arange(5.0)}, "history": [{"epoch": 1, "loss": 0.5}], "best": None}


def test_what_is_saved_is_loaded(tmp_path):
    path = save_checkpoint(tmp_path / "new" / "folder", 1, STATE)
    loaded = load_checkpoint(path)
    assert torch.equal(loaded["model"]["w"], STATE["model"]["w"])
    assert loaded | {"model": None} == STATE | {"model": None}
    assert torch.load(path, weights_only=True)["history"] == STATE["history"]


@pytest.mark.parametrize(("epochs", "kept"), [((1, 2, 3, 11), [3, 11]), ((9_998, 9_999, 10_000), [9_999, 10_000]),
                                              ((9_999, 10_000, 100_000), [10_000, 100_000]), ((7,), [7])])
def test_the_newest_two_by_number_are_kept(tmp_path, epochs, kept):
    for epoch in epochs:
        save_checkpoint(tmp_path, epoch, {"epoch": epoch})
    assert [load_checkpoint(path)["epoch"] for path in list_checkpoints(tmp_path)] == kept
    assert len(list(tmp_path.iterdir())) == len(kept)
    assert load_latest(tmp_path)["epoch"] == kept[-1]


def test_files_of_other_names_are_not_checkpoints(tmp_path):
    for name in ("epoch-best-1.pt", "epoch-²-1.pt", "epoch-1.pt", "epoch-0001-1.refused", "model.pt"):
        (tmp_path / name).touch()
    assert list_checkpoints(tmp_path) == [] and load_latest(tmp_path) is None
    assert load_latest(tmp_path / "missing") is None


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 100), lambda path: os.truncate(path, 0), flip_a_byte])
def test_a_damaged_one_is_reported_and_skipped(tmp_path, damage):
    save_checkpoint(tmp_path, 1, {"epoch": 1})
    newest = save_checkpoint(tmp_path, 2, {"epoch": 2})
    damage(newest)
    with pytest.raises(CourseError, match="is damaged: its SHA-256"):
        load_checkpoint(newest)
    lines = []
    assert load_latest(tmp_path, lines.append)["epoch"] == 1
    assert newest.name in lines[0] and len(list_checkpoints(tmp_path)) == 1
    assert load_latest(tmp_path, pytest.fail)["epoch"] == 1  # it was put aside


def test_a_failed_write_leaves_the_earlier_one_unchanged(tmp_path):
    save_checkpoint(tmp_path, 1, {"epoch": 1})
    with file_size_limit(1000), pytest.raises(CourseError, match=r"Could not write .*epoch-0002.* File too large \("):
        save_checkpoint(tmp_path, 2, {"epoch": 2, "model": torch.zeros(1000)})
    assert load_latest(tmp_path)["epoch"] == 1
    assert len(list(tmp_path.iterdir())) == 1


def test_progress_is_a_short_file_and_never_an_error(tmp_path):
    rows = [{"epoch": 1, "seconds": 2.0, "val_accuracy": 0.5}, {"epoch": 2, "seconds": 3.0, "val_accuracy": 0.75}]
    write_progress(tmp_path, rows)
    assert json.loads((tmp_path / "progress.json").read_text()) == {"epoch": 2, "accuracy": 0.75, "seconds": 5.0}
    write_progress(tmp_path, [{"epoch": 1, "seconds": 2.0, "test_accuracy": 0.25}])
    assert json.loads((tmp_path / "progress.json").read_text())["accuracy"] == 0.25
    with file_size_limit(5):
        write_progress(tmp_path, rows)
    assert json.loads((tmp_path / "progress.json").read_text())["accuracy"] == 0.25
