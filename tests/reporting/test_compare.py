"""Two runs side by side, and how long a run will take: both from records alone."""
import numpy as np
import pytest
from scipy.stats import binomtest
from test_record import NAME, finished

from course_utils.reporting import compare, record
from course_utils.runner import estimate
from course_utils.__main__ import main
from course_utils.data.datasets import open_dataset
from course_utils.errors import CourseError
from course_utils.variants import load_experiment


@pytest.fixture
def pair(tmp_path):
    """Two runs on the same 100 test images: the first is right on 0 to 69, the second on 0 to 89."""
    for name, settings in (("a", {"right": 70}), ("b", {"right": 90, "seed": 1})):
        (tmp_path / name).mkdir()
        record.write(finished(**settings), tmp_path / name)
    return compare.find(str(tmp_path / "a")), compare.find(str(tmp_path / "b" / "record.json"))


def test_what_differs_and_what_came_of_it(pair):
    lines = compare.compare(*pair).splitlines()
    assert lines[0].split() == ["a", "b"] and lines[1].split() == ["seed", "0", "1"] and lines[2] == ""
    assert "test accuracy  70.00%" in compare.compare(*pair) and lines[-1].split()[-1].startswith(("+", "-"))


def test_the_images_that_changed(pair):
    data = open_dataset("cifar10", data="synthetic", train_images=20, test_images=100)
    text, figure = compare.changed(*pair, data)
    assert "both classify 70 correctly, only a 0, only b 20, neither 10" in text
    assert f"p = {2 / 2**20:.2g}" in text and "20 of 20" in figure.get_suptitle()
    other = open_dataset("cifar10", data="synthetic", train_images=20, test_images=60)
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
    assert "cifar10_custom_resnet/published-5epochs-seed0" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*words[:3], "--output", str(tmp_path / "file" / "out")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_two_runs_of_one_name_are_told_apart(pair, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "b").rename(tmp_path / "other" / "a")
    one, other = compare.told_apart(compare.find(str(tmp_path / "a")), compare.find(str(tmp_path / "other" / "a")))
    assert (one[0], other[0]) == ("a (1)", "a (2)")
    lines = compare.both_curves(one, other).axes[0].get_legend_handles_labels()[1]
    assert lines == ["a (1), test", "a (1), train", "a (2), test", "a (2), train"]


def test_an_earlier_run_tells_how_long(tmp_path, monkeypatch):
    exp = load_experiment(NAME, profile="smoke", epochs=30)
    record.write(finished(profile="smoke"), tmp_path)  # 3 epochs of 60 s
    monkeypatch.setattr(estimate, "get_context", None)  # nothing is measured
    found, = estimate.estimates([exp], [tmp_path])
    assert (found.seconds, found.source) == (1800, "an earlier run")
    assert estimate._by_earlier(exp.replace(model="resnet18"), [record.read(tmp_path / "record.json")]) is None
    for gpus, together in ((0, "90 min"), (1, "90 min"), (2, "45 min"), (8, "30 min")):
        last = estimate.forecast(["x"] * 3, [found] * 3, gpus).splitlines()[-1]
        assert last == f"Together about {together}."
    assert estimate.forecast(["x"], [estimate.NOT_KNOWN], 1) == "x: no telling how long"


def test_else_a_few_steps_do():
    exp = load_experiment("gtsrb_stn", "lenet", profile="smoke")
    losses, seconds, steps = estimate.first_steps(exp, 3)
    assert len(losses) == 4 and np.isfinite(losses).all() and 0 < seconds < 5 and steps > 10
    found, = estimate.estimates([exp], [])
    assert found.source == "3 steps" and found.seconds > 0


NET = """import os
import torch
class Net(torch.nn.Module):
    def __init__(self, classes=43):
        super().__init__()
        self.last = torch.nn.Linear(3, classes)
    def forward(self, x):
        if len(x) > 2:
            {fate}
        return self.last(x.mean((2, 3)))
"""


@pytest.mark.parametrize("fate", ["raise torch.OutOfMemoryError('no memory')", "os._exit(9)"])
def test_what_fails_while_it_is_measured_stops_nothing(tmp_path, fate):
    """The run itself will say what is wrong."""
    (tmp_path / "bad_net.py").write_text(NET.format(fate=fate))
    bad = load_experiment("gtsrb_stn", "lenet", profile="smoke", model=f"{tmp_path}/bad_net.py:Net")
    assert estimate.estimates([bad], []) == [estimate.NOT_KNOWN]


def test_what_could_not_begin_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    with pytest.raises(CourseError, match="No prepared gtsrb"):
        estimate.estimates([load_experiment("gtsrb_stn", "lenet")], [])


def test_durations_are_said_as_people_do():
    assert [estimate.duration(s) for s in (40, 750, 12_600)] == ["40 s", "12 min", "3.5 h"]
