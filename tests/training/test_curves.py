"""Curves for TensorBoard."""
import importlib.util

import pytest
from helpers import fit_toy, interrupt_at

from course_utils.training.curves import curve_writer


def test_tensorboard_gets_the_history_also_of_a_resumed_run(tiny, tmp_path):
    loading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with pytest.raises(KeyboardInterrupt):
        fit_toy(tiny, folder=tmp_path, log=interrupt_at("3/4"))
    _, training = fit_toy(tiny, folder=tmp_path)
    found = loading.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for tag, name in (("loss/train", "train_loss"), ("accuracy/test", "test_accuracy"), ("lr", "lr")):
        assert [event.step for event in found.Scalars(tag)] == [1, 2, 3, 4]
        assert [event.value for event in found.Scalars(tag)] == pytest.approx([row[name] for row in training.history])


def test_without_tensorboard_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    curve_writer(tmp_path)({"epoch": 1, "lr": 0.1})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_costs_no_training(tmp_path):
    (tmp_path / "tensorboard").write_text("a file, not a folder")
    curve_writer(tmp_path)({"epoch": 1, "lr": 0.1})
