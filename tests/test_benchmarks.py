"""The benchmarks' README is made from their results; ratios are of pairs; the GPU table counts full runs only."""
import json

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import gpu, timing
from course_utils.data import DATASETS


def test_the_readme_is_made_from_the_results():
    found = json.loads((benchmarks.HOME / "results.json").read_text())
    assert (benchmarks.HOME / "README.md").read_text() == benchmarks.readme(found)
    assert all(row["rounds"] for row in found["rows"])


def test_ratios_are_of_pairs():
    """A slow round slows both; the ratio of the medians would be another."""
    row = timing.ratio_row("x", {"baseline": [1.0, 10.0, 100.0], "ours": [3.0, 30.0, 200.0]}, "images/s", goal=3)
    assert (row.baseline, row.ours, row.ratio, row.met) == (10, 30, pytest.approx(3), True)
    row = timing.ratio_row("x", {"baseline": [2.0], "ours": [1.0]}, "images/s", goal=3)
    assert row.ratio == 0.5 and "| **no** |" in timing.table([row])


def test_measurements_take_turns():
    order = []
    found = timing.interleaved({"a": lambda: order.append("a") or 1.0, "b": lambda: order.append("b") or 2.0}, 3)
    assert order == ["a", "b"] * 3 and found == {"a": [1.0] * 3, "b": [2.0] * 3}


def test_the_gpu_table_counts_full_runs_on_a_gpu(monkeypatch):
    def run(assignment, variant, epochs, seconds, accuracy=0.95, device="cuda"):
        return {"experiment": {"assignment": assignment, "variant": variant, "epochs": epochs, "stages": [],
                               "dataset": "cifar10"}, "data": {"sha256": DATASETS["cifar10"].sha256},
                "synthetic": False, "sessions": [{"machine": "NVIDIA H200, 16 cores"}], "device": device,
                "precision": "bf16", "seconds": seconds, "history": [{"seconds": 3.0}, {"seconds": seconds / 24}],
                "final": {"accuracy": accuracy, "per_class": dict.fromkeys(DATASETS["cifar10"].classes, accuracy)}}

    monkeypatch.setattr(gpu, "published_records", lambda assignment: {})
    assert [(row.ours, row.met) for row in gpu.rows()] == [(None, None)] * 6
    assert timing.table(gpu.rows()).count("not yet measured") == 6
    monkeypatch.setattr(gpu, "published_records", lambda name: dict(enumerate(
        [run(name, "s7", 200, 120), run(name, "s7", 5, 1), run(name, "s7", 200, 9, device="cpu")] if "dilated" in name
        else [run(name, "published", 24, seconds, 0.93 + 0.01 * k) for k, seconds in enumerate((10, 11, 16))])))
    accuracy, seconds, minutes, first, later, share = gpu.rows()
    assert accuracy.ours == pytest.approx(94) and accuracy.met is False  # three seeds, not five
    assert (seconds.ours, seconds.rounds, seconds.met) == (11, 3, True) and (minutes.ours, minutes.met) == (2, True)
    assert (first.ours, later.ours) == (3, pytest.approx(11 / 24))
    assert share.ours == pytest.approx(100 * 2.73e15 / 11 / 989e12, rel=0.01)
