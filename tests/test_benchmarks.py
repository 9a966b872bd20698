"""What the benchmarks' README says is what was measured, and the plain way is the same work as ours."""
import json

import pytest

from benchmarks import __main__ as benchmarks
from benchmarks import turns


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


def test_ways_take_turns():
    order = []
    found = turns.in_turns({"plain": lambda: order.append("a") or 1.0, "ours": lambda: order.append("b") or 2.0}, 3)
    assert order == ["a", "b"] * 3 and found == {"plain": [1.0] * 3, "ours": [2.0] * 3}
