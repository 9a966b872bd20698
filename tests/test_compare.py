"""Two runs side by side, and how long a run will take: both from records alone."""
import numpy as np
import pytest
from scipy.stats import binomtest
from test_record import NAME, finished

from course_utils import compare, estimate, record
from course_utils.__main__ import main
from course_utils.datasets import open_dataset
from course_utils.errors import CourseError
from course_utils.experiment import load


@pytest.fixture
def pair(tmp_path):
    """Two runs on the same 100 test images: the first names 0 to 69 rightly, the second 0 to 89."""
    for name, settings in (("a", {"right": 70}), ("b", {"right": 90, "seed": 1})):
        (tmp_path / name).mkdir()
        record.write(finished(**settings), tmp_path / name)
    return compare.find(str(tmp_path / "a")), compare.find(str(tmp_path / "b" / "record.json"))


def test_what_differs_and_what_came_of_it(pair):
    lines = compare.compare(*pair).splitlines()
    assert lines[0].split() == ["a", "b"] and lines[1].split() == ["seed", "0", "1"] and lines[2] == ""
    assert "test accuracy  70.00%" in compare.compare(*pair) and lines[-1].split()[-1].startswith(("+", "-"))


def test_the_images_that_changed(pair):
    data = open_dataset("cifar10", data="sample", train_images=20, test_images=100)
    text, figure = compare.changed(*pair, data)
    assert "both name 70 rightly, only a 0, only b 20, neither 10" in text
    assert f"p = {2 / 2**20:.2g}" in text and "20 of 20" in figure.get_suptitle()
    other = open_dataset("cifar10", data="sample", train_images=20, test_images=60)
    with pytest.raises(CourseError, match="does not fit"):
        compare.predictions(pair[0][1], other)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (3, 0), (7, 12), (40, 41), (200, 150)])
def test_mcnemar_agrees_with_scipy(won, lost):
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert compare.mcnemar(won, lost) == pytest.approx(expected)


def test_judged_on_other_images_nothing_can_have_changed(pair):
    (name, run), other = pair
    run["data"]["sha256"]["test_images"] = "0"
    with pytest.raises(CourseError, match="different images"):
        compare.judged_on((name, run), other)


def test_by_command(pair, tmp_path, capsys):
    """The images are those of a drawn sample with another number of them, so that they cannot be shown; said so."""
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")]
    assert main([*words, "--root", str(tmp_path)]) == 0
    assert "cannot be shown" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["curves.png"]
    assert main(["compare", "nowhere", "a"]) == 2
    assert "published-5epochs-seed0" in capsys.readouterr().err


def test_an_earlier_run_tells_how_long(tmp_path, monkeypatch):
    exp = load(NAME, profile="smoke", epochs=30)
    record.write(finished(profile="smoke"), tmp_path)  # 3 epochs of 60 s
    monkeypatch.setattr(estimate, "ProcessPoolExecutor", None)  # nothing is measured
    found, = estimate.estimates([exp], [tmp_path])
    assert (found.seconds, found.source) == (1800, "an earlier run")
    assert estimate._by_earlier(exp.replace(model="resnet18"), [record.read(tmp_path / "record.json")]) is None
    assert estimate.forecast(["x"] * 3, [found] * 3, 2).splitlines()[-1] == "Together about 45 min, 2 at a time."
    assert estimate.forecast(["x"], [found], 2).endswith("30 min, 2 at a time.")


def test_else_a_few_steps_do():
    exp = load("gtsrb_stn", "lenet", profile="smoke")
    losses, seconds, steps = estimate.first_steps(exp, 3)
    assert len(losses) == 4 and np.isfinite(losses).all() and 0 < seconds < 5 and steps > 10
    found, = estimate.estimates([exp], [])
    assert found.source == "3 steps" and found.seconds > 0


def test_durations_are_said_as_people_do():
    assert [estimate.duration(s) for s in (40, 750, 12_600)] == ["40 s", "12 min", "3.5 h"]
