"""Figures: each draws and is saved, and shows the numbers that it was given."""
import numpy as np
import PIL.Image
import pytest
from matplotlib.figure import Figure

from course_utils import plots

CLASSES = ("cat", "dog", "frog")
NUMBERS = [f"{number}" for number in range(25)]
IMAGES = np.random.default_rng(0).random((5, 8, 8, 3))
HISTORY = [{"epoch": k, "train_loss": 2.0 / k, "train_accuracy": 0.3 * k, "test_loss": 1.8 / k,
            "test_accuracy": 0.32 * k} for k in (1, 2, 3)]
FIGURES = {
    "image_grid": lambda: plots.image_grid(IMAGES, list("abcde"), 3, "five"),
    "image_grid_empty": lambda: plots.image_grid(IMAGES[:0], [], 0, "none"),
    "frames": lambda: plots.image_grid(IMAGES, list("abcde"), 3, "t", [IMAGES], outlines=np.full((5, 4, 2), 0.5)),
    "heat": lambda: plots.image_grid(IMAGES, list("abcde"), 3, heat=IMAGES[None, ..., 0], names=["layer1"]),
    "heat_empty": lambda: plots.image_grid(IMAGES[:0], [], heat=IMAGES[None, :0, ..., 0]),
    "lr_range_test": lambda: plots.lr_range_test([1e-4, 1e-3, 1e-2], [2.0, 1.0, 3.0], 1e-3, "t", 10),
    "lr_range_test_without_suggestion": lambda: plots.lr_range_test([1e-4, 1e-3], [2.0, 2.1], None, "t", 10),
    "schedule": lambda: plots.schedule([0.1, 0.5, 0.1, 0.1], 2, "t"),
    "schedule_with_momentum": lambda: plots.schedule([0.1, 0.5, 0.1, 0.1], 2, "t", [0.95, 0.85, 0.9, 0.95]),
    "curves": lambda: plots.curves(HISTORY, "t"),
    "comparison": lambda: plots.comparison({"one": HISTORY, "two": HISTORY[:2]}, "t"),
    "per_class": lambda: plots.per_class(np.array([0.5, 0.9, 0.7]), CLASSES, "t"),
    "per_class_worst": lambda: plots.per_class(np.array([0.5, 0.9, 0.7]), CLASSES, "t", 2),
    "confusion_of_many": lambda: plots.confusion(np.diag(np.arange(25)) + np.eye(25, k=1, dtype=int), NUMBERS, "t"),
    "confusion": lambda: plots.confusion(np.array([[5, 1, 0], [0, 4, 2], [1, 1, 1]]), CLASSES, "t"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_and_saved(name, tmp_path):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    path = tmp_path / "new" / f"{name}.png"
    shown = plots.save_figure(figure, path)
    assert shown.data == path.read_bytes() and PIL.Image.open(path).mode == "P"  # 256 colors


@pytest.mark.parametrize("name", ["lr_range_test", "schedule", "curves", "comparison", "confusion"])
def test_axes_have_labels(name):
    for axis in FIGURES[name]().axes:
        assert axis.get_xlabel() and axis.get_ylabel()


def test_curves_show_the_history():
    figure = FIGURES["curves"]()
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[1].lines}
    np.testing.assert_allclose(lines["test, plain"], [32, 64, 96])
    assert lines.keys() == {"training, augmented", "test, plain"}
    validated = [{key.replace("test", "val"): value for key, value in row.items()} for row in HISTORY]
    assert plots.comparison({"a": validated}, "t").axes[0].lines[0].get_label() == "a, val"


def test_curves_mark_where_a_stage_starts():
    history = [row | {"stage": 1 + (row["epoch"] > 2)} for row in HISTORY]
    for axis in plots.curves(history, "t").axes:
        assert [list(line.get_xdata()) for line in axis.lines if line.get_linestyle() == "--"] == [[2.5, 2.5]]
    assert all(line.get_linestyle() != "--" for line in FIGURES["curves"]().axes[0].lines)


def labels(axis):
    return [text.get_text() for text in axis.get_yticklabels()]


def test_the_worst_classes_and_the_most_frequent_confusions_come_first_at_the_top():
    assert labels(FIGURES["per_class_worst"]().axes[0]) == ["cat", "frog"]
    matrix = np.diag(np.full(25, 90))
    matrix[39 % 25, 3], matrix[2, 1] = 26, 7
    axis = plots.confusion(matrix, NUMBERS, "t").axes[0]
    assert labels(axis) == ["2 → 1", "14 → 3"]
    assert [text.get_text() for text in axis.texts] == ["7 of 97", "26 of 116"]


def test_range_test_ends_where_the_loss_diverges_and_shows_the_loss_of_guessing():
    axis = plots.lr_range_test([1e-4, 1e-3, 1e-2, 1e-1, 1], [2.0, 1.0, 3.0, 5.0, 1.0], None, "t", 10).axes[0]
    assert list(axis.lines[0].get_ydata()) == [2.0, 1.0, 3.0]
    assert axis.lines[1].get_ydata()[0] == pytest.approx(np.log(10))


def test_a_large_picture_gets_fewer_colors(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "figure.png"
    for side, least, most in ((4, 129, 256), (150, 33, 64)):
        plots.save_figure(plots.image_grid(rng.random((16, side, side, 3)), [""] * 16, 4), path)
        assert least <= len(PIL.Image.open(path).getcolors()) <= most


def test_powers_of_ten_are_set_as_math_and_names_are_not(tmp_path):
    figure = plots.lr_range_test([1e-4, 1e-3, 1e-2], [2.0, 1.0, 3.0], 1e-3, "cost $10 or $20", 10)
    plots.save_figure(figure, tmp_path / "figure.png")
    labels = figure.axes[0].get_xticklabels(which="both")
    assert any("10^{-3}" in label.get_text() for label in labels) and all(label.get_parse_math() for label in labels)
    assert not any(text.get_parse_math() for text in figure.texts)
