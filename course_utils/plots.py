"""Figures: arrays in, ``Figure`` out, in one style; backgrounds are white, also on a dark page."""
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # Okabe and Ito 2008, for color-blind readers
DPI = 110  # of saved figures
History = Sequence[Mapping[str, Any]]  # one row per epoch


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` x ``height`` inches and its axes, (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    return figure, figure.subplots(rows, columns, squeeze=False)


def style_axes(axis: Axes) -> None:
    """No frame above and to the right; a light grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def save_figure(figure: Figure, path: Path) -> Figure:
    """Write ``figure`` as PNG to ``path``, whose folder is made, and return it to be shown."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    return figure


def image_grid(images: np.ndarray, titles: Sequence[str], columns: int = 8, title: str = "",
               below: Sequence[np.ndarray] = (), heat: np.ndarray | None = None) -> Figure:
    """``images`` (N, H, W, 3), uint8 or float 0 to 1, each under its title and above its counterparts in ``below``.

    ``heat`` (L, N, H, W), 0 to 1, overlays these. One matplotlib axes for all: one per image would take ten times as
    long.
    """
    layers, columns, lines = [images, *below], max(1, columns), 1 + max(text.count("\n") for text in (*titles, ""))
    rows, block = max(1, -(-len(images) // columns)), 1.05 * len(layers) + 0.17 * lines  # in image sides
    across = 1.08 * columns - 0.08
    figure, [[axis]] = new_figure(1.25 * columns, 1.25 * columns / across * block * rows + 0.4)
    for k, text in enumerate(titles[:len(images)]):
        left, top = 1.08 * (k % columns), block * (k // columns)
        axis.text(left + 0.5, top - 0.03, text, ha="center", va="bottom", fontsize=8)
        for number, layer in enumerate(layers):
            place = (left, left + 1, top + 1.05 * number + 1, top + 1.05 * number)
            axis.imshow(layer[k], extent=place, interpolation="nearest")
            if number and heat is not None:
                axis.imshow(heat[number - 1][k], extent=place, cmap="inferno", alpha=0.55, vmin=0, vmax=1,
                            interpolation="bilinear")
    axis.set(xlim=(0, across), ylim=(block * rows - 0.17 * lines, -0.17 * lines), aspect="equal")
    axis.axis("off")
    figure.suptitle(title, fontsize=11)
    return figure


def before_after(before: np.ndarray, after: np.ndarray, titles: Sequence[str], title: str, columns: int = 11) -> Figure:
    """Images ``before`` (N, H, W, 3), 0 to 1, each above its result in ``after``."""
    return image_grid(before, titles, columns, title, [after])


def heat_maps(images: np.ndarray, heat: np.ndarray, titles: Sequence[str], title: str, columns: int = 8) -> Figure:
    """``images`` (N, H, W, 3), 0 to 1, above themselves overlaid with each of ``heat`` (L, N, H, W), 0 to 1."""
    return image_grid(images, titles, columns, title, [images] * len(heat), heat)


def lr_range_test(lrs: Sequence[float], losses: Sequence[float], suggestion: float | None, title: str) -> Figure:
    """The loss over the learning rate, on a logarithmic scale, and the suggested rate, if there is one."""
    figure, [[axis]] = new_figure(6.5, 3.4)
    axis.plot(lrs, losses, color=BLUE)
    if suggestion:
        axis.axvline(suggestion, color=ORANGE, linestyle="--", label=f"suggested peak: {suggestion:.1e}")
        axis.legend()
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed (nats)", title=title,
             ylim=(0.95 * min(losses), min(1.1 * max(losses), 2 * losses[0])))
    style_axes(axis)
    return figure


def schedule(rates: Sequence[float], steps_per_epoch: int, title: str) -> Figure:
    """The learning rate of every step, over epochs."""
    figure, [[axis]] = new_figure(6.5, 2.8)
    axis.plot(np.arange(len(rates)) / steps_per_epoch, rates, color=BLUE)
    peak = int(np.argmax(rates))
    axis.annotate(f"peak {rates[peak]:.1e} at epoch {peak / steps_per_epoch:.1f}",
                  (peak / steps_per_epoch, rates[peak]), xytext=(6, 5), textcoords="offset points")
    axis.set(xlabel="epoch", ylabel="learning rate", title=title, ylim=(0, 1.2 * rates[peak]))
    style_axes(axis)
    return figure


def curves(history: History, title: str) -> Figure:
    """Loss and accuracy over epochs: training images as augmented, test (or validation) images plain."""
    other, name = ("val", "validation, plain") if "val_loss" in history[0] else ("test", "test, plain")
    return _over_epochs([("training, augmented", history, "train", {"color": BLUE, "marker": "o"}),
                         (name, history, other, {"color": ORANGE, "marker": "s"})], title)


def comparison(histories: Mapping[str, History], title: str) -> Figure:
    """Loss and accuracy over epochs of at most four named runs: test (or validation) images; dotted: training."""
    lines = []
    for (name, history), color in zip(histories.items(), (BLUE, ORANGE, GREEN, PURPLE)):
        other = "val" if "val_loss" in history[0] else "test"
        lines += [(f"{name}, {other}", history, other, {"color": color}),
                  (f"{name}, train", history, "train", {"color": color, "linestyle": ":"})]
    return _over_epochs(lines, title)


def _over_epochs(lines: Sequence[tuple[str, History, str, Mapping[str, str]]], title: str) -> Figure:
    """Each line: its label, history, split and style. Vertical lines where a stage of the first history starts."""
    first = lines[0][1]
    starts = [row["epoch"] - 0.5 for old, row in itertools.pairwise(first) if row.get("stage") != old.get("stage")]
    figure, axes = new_figure(9, 3.5, 1, 2)
    for axis, what, label, factor in zip(axes[0], ("loss", "accuracy"), ("loss (nats)", "accuracy (%)"), (1, 100)):
        for name, history, split, style in lines:
            axis.plot([row["epoch"] for row in history], [factor * row[f"{split}_{what}"] for row in history],
                      markersize=4, label=name, **style)
        for number, place in enumerate(starts, 2):
            axis.axvline(place, color="gray", linestyle="--", linewidth=1)
            axis.annotate(f" stage {number}", (place, 1), xycoords=("data", "axes fraction"), fontsize=8, va="top")
        axis.set(xlabel="epoch", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend(fontsize=8)
        style_axes(axis)
    figure.suptitle(title, fontsize=11)
    return figure


def per_class(accuracy: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Accuracy of each class (0 to 1), the best first."""
    order = np.argsort(accuracy)
    figure, [[axis]] = new_figure(6.5, 0.28 * len(classes) + 1)
    bars = axis.barh([classes[k] for k in order], 100 * accuracy[order], color=BLUE)
    axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axis.set(xlabel="accuracy (%)", xlim=(0, 108), title=title)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Confusion matrix (classes, classes): rows: true class, columns: predicted class; counts as numbers."""
    cell, size = (0.5, 7) if len(classes) <= 20 else (0.25, 4)  # inches, points
    side = cell * len(classes) + 2.5
    figure, [[axis]] = new_figure(side, side)
    share = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.ndindex(matrix.shape):
        if matrix[row, column]:
            axis.text(column, row, matrix[row, column], ha="center", va="center", fontsize=size,
                      color="white" if share[row, column] > 0.5 else "black")
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=size + 2)
    axis.set_yticks(range(len(classes)), classes, fontsize=size + 2)
    axis.set(xlabel="predicted class", ylabel="true class", title=title)
    return figure
