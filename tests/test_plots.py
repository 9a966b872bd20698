"""Figures: each draws and is saved, and shows the numbers that it was given."""
import numpy as np
import pytest
from matplotlib.figure import Figure

from course_utils import plots

CLASSES = ("cat", "dog", "frog")
IMAGES = np.random.default_rng(0).random((5, 8, 8, 3))
HISTORY = [{"epoch": k, "train_loss": 2.0 / k, "train_accuracy": 0.3 * k, "test_loss": 1.8 / k,
            "test_accuracy": 0.32 * k} for k in (1, 2, 3)]
FIGURES = {
    "image_grid": lambda: plots.image_grid(IMAGES, list("abcde"), 3, "five"),
    "image_grid_empty": lambda: plots.image_grid(IMAGES[:0], [], 0, "none"),
    "before_after": lambda: plots.before_after(IMAGES, IMAGES, list("abcde"), "t", 3),
    "heat_maps": lambda: plots.heat_maps(IMAGES, IMAGES[None, ..., 0], list("abcde"), "t", columns=3),
    "heat_maps_empty": lambda: plots.heat_maps(IMAGES[:0], IMAGES[None, :0, ..., 0], [], "none"),
    "lr_range_test": lambda: plots.lr_range_test([1e-4, 1e-3, 1e-2], [2.0, 1.0, 3.0], 1e-3, "t"),
    "lr_range_test_without_suggestion": lambda: plots.lr_range_test([1e-4, 1e-3], [2.0, 2.1], None, "t"),
    "schedule": lambda: plots.schedule([0.1, 0.5, 0.1, 0.1], 2, "t"),
    "curves": lambda: plots.curves(HISTORY, "t"),
    "comparison": lambda: plots.comparison({"one": HISTORY, "two": HISTORY[:2]}, "t"),
    "per_class": lambda: plots.per_class(np.array([0.5, 0.9, 0.7]), CLASSES, "t"),
    "confusion": lambda: plots.confusion(np.array([[5, 1, 0], [0, 4, 2], [1, 1, 1]]), CLASSES, "t"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_drawn_and_saved(name, tmp_path):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert plots.save_figure(figure, tmp_path / "new" / f"{name}.png") is figure
    assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


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
