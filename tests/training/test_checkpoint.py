import json

import pytest
import torch
from helpers import file_size_limit

from course_utils.training import checkpoint
from course_utils.training.checkpoint import list_checkpoints, load_checkpoint, load_latest, save_checkpoint


def test_what_is_saved_is_loaded(tmp_path):
    state = {"model": {"w": torch.arange(5.0)}, "history": [{"epoch": 1, "loss": 0.5}], "best": None}
    path = save_checkpoint(tmp_path / "new" / "folder", 1, state)
    for loaded in (load_checkpoint(path), torch.load(path, weights_only=True)):
        assert torch.equal(loaded.pop("model")["w"], torch.arange(5.0))
        assert loaded == {"history": state["history"], "best": None}


@pytest.mark.parametrize(("epochs", "kept"), [
    ((7,), [7]), ((1, 2, 3, 11), [3, 11]), ((9_998, 9_999, 10_000), [9_999, 10_000]),
    ((9_999, 10_000, 100_000), [10_000, 100_000]),
])
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


def test_progress_is_a_short_file_and_never_an_error(tmp_path):
    rows = [{"epoch": 1, "seconds": 2.0, "val_accuracy": 0.5}, {"epoch": 2, "seconds": 3.0, "val_accuracy": 0.75}]
    checkpoint.write_progress(tmp_path, rows)
    assert json.loads((tmp_path / "progress.json").read_text()) == {"epoch": 2, "accuracy": 0.75, "seconds": 5.0}
    checkpoint.write_progress(tmp_path, [{"epoch": 1, "seconds": 2.0, "test_accuracy": 0.25}])
    with file_size_limit(5):
        checkpoint.write_progress(tmp_path, rows)
    assert json.loads((tmp_path / "progress.json").read_text())["accuracy"] == 0.25


def test_checkpoints_take_a_tenth_of_the_time_at_most(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: clock[0])

    def save(seconds):
        clock[0] += seconds

    pace, written = checkpoint.Pace(), 0
    for _ in range(1000):  # epochs of 0.5 s with checkpoints of 2 s
        clock[0] += 0.5
        if pace.is_due():
            pace.measure(save, 2.0)
            written += 1
    assert written == 25 and 2 * written / clock[0] < 0.1 + 0.01
    pace = checkpoint.Pace()
    pace.measure(save, 0.09)
    assert pace.is_due()  # cheap ones after every epoch
