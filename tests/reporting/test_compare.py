"""Two runs side by side, from their records alone."""
import pytest
from helpers import finished_record
from scipy.stats import binomtest

from course_utils.__main__ import main
from course_utils.data import open_dataset
from course_utils.errors import CourseError
from course_utils.reporting import compare, write_record


@pytest.fixture
def pair(tmp_path):
    """Two runs on the same 100 test images: the first is right on 0 to 69, the second on 0 to 89."""
    for name, settings in (("a", {"correct": 70}), ("b", {"correct": 90, "seed": 1})):
        (tmp_path / name).mkdir()
        write_record(finished_record(**settings), tmp_path / name)
    return compare.find_record(str(tmp_path / "a")), compare.find_record(str(tmp_path / "b" / "record.json"))


def test_settings_results_and_classes_are_compared(pair):
    text = compare.compare(*pair)
    lines = text.splitlines()
    assert lines[0].split() == ["a", "b"] and lines[1].split() == ["seed", "0", "1"] and lines[2] == ""
    assert "test accuracy  70.00%" in text
    differences = [abs(float(line.split()[-1])) for line in lines[lines.index("", 3) + 2:]]
    assert len(differences) == 10 and differences == sorted(differences, reverse=True)
    labels = compare.plot_curves(*pair).axes[0].get_legend_handles_labels()[1]
    assert labels == ["a, test", "a, train", "b, test", "b, train"]


def test_changed_predictions_are_counted_and_shown(pair):
    data = open_dataset("cifar10", data="synthetic", train_images=20, test_images=100)
    text, figure = compare.changed_predictions(*pair, data)
    assert "both classify 70 correctly, only a 0, only b 20, neither 10" in text
    assert f"p = {2 / 2**20:.2g}" in text and "20 of 20" in figure.get_suptitle()


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (3, 0), (7, 12), (40, 41), (200, 150)])
def test_mcnemar_agrees_with_scipy(won, lost):
    expected = binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert compare.mcnemar(won, lost) == pytest.approx(expected)


def test_runs_on_other_test_images_are_refused(pair):
    (name, run), other = pair
    run["data"]["sha256"]["test_images"] = "0"
    with pytest.raises(CourseError, match="different test images"):
        compare.open_test_set((name, run), other)
    run["data"]["sha256"]["test_images"] = other[1]["data"]["sha256"]["test_images"]
    run["final"]["images"] = 2000  # a part of them
    with pytest.raises(CourseError, match="different test images"):
        compare.open_test_set((name, run), other)


def test_command(pair, tmp_path, capsys):
    """The real data set is not in this folder, so that changed images cannot be shown."""
    words = ["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--output", str(tmp_path / "out")]
    assert main([*words, "--root", str(tmp_path)]) == 0
    assert "cannot be shown: No prepared cifar10" in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["curves.png"]
    assert main(["compare", "nowhere", "a"]) == 2
    assert "cifar10_custom_resnet/published-24epochs-seed0" in capsys.readouterr().err
    (tmp_path / "file").touch()
    assert main([*words[:3], "--output", str(tmp_path / "file" / "out")]) == 2
    assert "Not a directory" in capsys.readouterr().err


def test_two_runs_of_one_name_stay_distinguishable(pair, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "b").rename(tmp_path / "other" / "a")
    one, other = compare.find_record(str(tmp_path / "a")), compare.find_record(str(tmp_path / "other" / "a"))
    labels = compare.plot_curves(one, other).axes[0].get_legend_handles_labels()[1]
    assert len(set(labels)) == 4
