"""What the benchmarks' README says is what was measured, and the plain way is the same work as ours."""
import json

import pytest
from test_record import finished

from benchmarks import __main__ as benchmarks
from benchmarks import gpu, turns


def test_the_readme_is_what_was_measured():
    found = json.loads((benchmarks.HOME / "results.json").read_text())
    assert (benchmarks.HOME / "README.md").read_text() == benchmarks.text(found)
    assert (benchmarks.HOME / "scale.png").is_file() and all(row["rounds"] for row in found["rows"])


def test_ratios_are_of_pairs():
    """A slow round slows both ways; the ratio of the medians would be another."""
    row = turns.compared("x", {"plain": [1.0, 10.0, 100.0], "ours": [3.0, 30.0, 200.0]}, "images/s", goal=3)
    assert (row.plain, row.ours, row.ratio, row.met) == (10, 30, pytest.approx(3), True)
    row = turns.compared("x", {"plain": [2.0], "ours": [1.0]}, "s", goal=3, smaller=True)
    assert row.ratio == 2 and row.met is False
    assert "| **no** |" in turns.table([row]) and turns.at_most("y", [1, 9, 3], "s", 5).met


def test_what_a_gpu_did_is_told_by_whole_runs_there(monkeypatch):
    def run(variant, epochs, seconds, accuracy=0.95, device="cuda"):
        made = finished()
        made["experiment"] |= {"variant": variant, "epochs": epochs, "stages": []}
        made["sessions"][-1]["machine"] = "NVIDIA H200, 16 cores"
        return made | {"device": device, "precision": "bf16", "seconds": seconds,
                       "final": made["final"] | {"accuracy": accuracy}}

    monkeypatch.setattr(gpu.record, "results", lambda assignment: {})
    assert [(row.ours, row.met) for row in gpu.rows()] == [(None, None)] * 4
    monkeypatch.setattr(gpu.record, "results", lambda assignment: dict(enumerate(
        [run("s7", 200, 240), run("s7", 5, 1), run("s7", 200, 9, device="cpu")] if "dilated" in assignment else
        [run("published", 24, seconds, 0.93 + 0.01 * k) for k, seconds in enumerate((10, 11, 16))])))
    accuracy, seconds, minutes, share = gpu.rows()
    assert accuracy.ours == pytest.approx(94) and accuracy.met is False  # three seeds, not five
    assert (seconds.ours, seconds.rounds, seconds.met) == (11, 3, True) and (minutes.ours, minutes.met) == (4, True)
    assert share.ours == pytest.approx(100 * 2.73e15 / 11 / 989e12, rel=0.01)
    assert "not yet measured" in turns.table([turns.at_most("x", [], "s", 1)])


def test_ways_take_turns():
    order = []
    found = turns.in_turns({"plain": lambda: order.append("a") or 1.0, "ours": lambda: order.append("b") or 2.0}, 3)
    assert order == ["a", "b"] * 3 and found == {"plain": [1.0] * 3, "ours": [2.0] * 3}
