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
    "image_grid_of_nothing": lambda: plots.image_grid(IMAGES[:0], [], 0, "none"),
    "range_test": lambda: plots.range_test([1e-4, 1e-3, 1e-2], [2.0, 1.0, 3.0], 1e-3, "t"),
    "range_test_of_nothing": lambda: plots.range_test([1e-4, 1e-3, 1e-2], [2.0, 2.1, 3.0], None, "t"),
    "schedule": lambda: plots.schedule([0.1, 0.5, 0.1, 0.1], 2, "t"),
    "curves": lambda: plots.curves(HISTORY, "t"),
    "per_class": lambda: plots.per_class(np.array([0.5, 0.9, 0.7]), CLASSES, "t"),
    "confusion": lambda: plots.confusion(np.array([[5, 1, 0], [0, 4, 2], [1, 1, 1]]), CLASSES, "t"),
    "heat_maps": lambda: plots.heat_maps(IMAGES, IMAGES[None, ..., 0], list("abcde"), "t", columns=3),
    "comparison": lambda: plots.comparison({"one": HISTORY, "two": HISTORY[:2]}, "t"),
    "true_size": lambda: plots.true_size([IMAGES[0], np.zeros((12, 12, 3))], "ab", "t"),
    "apparent_sizes": lambda: plots.apparent_sizes(np.linspace(0.8, 2, 50), {"test at 96": 1.0, "at 120": 1.25}, "t"),
    "by_resolution": lambda: plots.by_resolution([64, 96, 128], [0.5, 0.8, 0.7], 96, "t"),
    "fields": lambda: plots.fields([np.eye(5), np.ones((5, 5))], [np.eye(5), np.eye(5)[1:2].repeat(5, 0)], "ab", "t"),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_and_is_saved(name, tmp_path):
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert plots.save_figure(figure, tmp_path / "new" / f"{name}.png") is figure
    assert (tmp_path / "new" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_without_mistakes_still_gets_its_figures(tmp_path):
    heat = IMAGES[None, :0, ..., 0]
    for figure in (plots.image_grid(IMAGES[:0], [], 9), plots.heat_maps(IMAGES[:0], heat, [], "none")):
        plots.save_figure(figure, tmp_path / "empty.png")


def test_a_frame_holds_what_is_seen():
    """Of a field with holes as well: its outermost pixels, half a pixel further out."""
    seen = np.zeros((9, 9))
    seen[2:7:2, 1:8:3] = 1
    line = plots.fields([seen], [seen], ["holes"], "t").axes[0].lines[0]
    assert (min(line.get_xdata()), max(line.get_xdata())) == (0.5, 7.5)
    assert (min(line.get_ydata()), max(line.get_ydata())) == (1.5, 6.5)


@pytest.mark.parametrize("name", ["range_test", "schedule", "curves", "confusion", "apparent_sizes", "by_resolution"])
def test_axes_have_names(name):
    for axis in FIGURES[name]().axes:
        assert axis.get_xlabel() and axis.get_ylabel()


def test_the_curves_show_the_history():
    figure = FIGURES["curves"]()
    lines = {line.get_label(): line.get_ydata() for line in figure.axes[1].lines}
    np.testing.assert_allclose(lines["test, plain"], [32, 64, 96])
    shown = {text.get_text() for text in figure.axes[0].get_legend().get_texts()}
    assert shown == {"training, augmented", "test, plain"}


def test_the_curves_show_where_a_stage_begins():
    history = [row | {"stage": 1 + (row["epoch"] > 2)} for row in HISTORY]
    for axis in plots.curves(history, "t").axes:
        assert [list(line.get_xdata()) for line in axis.lines if line.get_linestyle() == "--"] == [[2.5, 2.5]]
    assert all(line.get_linestyle() != "--" for line in FIGURES["curves"]().axes[0].lines)


def test_pictures_of_true_size_share_their_pixels():
    first, second = (image.get_extent() for image in FIGURES["true_size"]().axes[0].images)
    assert [first[1] - first[0], second[1] - second[0]] == [8, 12] and first[2] == second[2]
