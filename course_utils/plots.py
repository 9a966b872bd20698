"""Figures: arrays in, ``Figure`` out, in one style; backgrounds are white, also on a dark page."""
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import PIL.Image
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from matplotlib.text import Text

BLUE, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"  # Okabe and Ito 2008, for color-blind readers
WIDEST = 1650  # pixels in which a figure is shown: a wider one is saved at twice the resolution
LARGEST = 150_000  # bytes of a picture, above which it gets fewer colors
DPI = 110  # of saved figures; twice as many of those without images, whose lines and text stay sharp on any screen
History = Sequence[Mapping[str, Any]]  # one row per epoch


def new_figure(width: float, height: float, rows: int = 1, columns: int = 1,
               title: str | None = None) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` x ``height`` inches and its axes, (rows, columns)."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    if title is not None:
        figure.suptitle(title, fontsize=10)
    return figure, figure.subplots(rows, columns, squeeze=False)


def style_axes(axis: Axes) -> None:
    """No frame above and to the right; a light grid."""
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(alpha=0.25)


def save_figure(figure: Figure, path: Path) -> Image:
    """Write ``figure`` to ``path``, whose folder is made, as PNG of few colors, a third of the size of one with all.
    Return it to be shown in a notebook, which then holds the same bytes as the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    log = [part for axis in figure.axes for part in (axis.xaxis, axis.yaxis) if part.get_scale() == "log"]
    powers = {label for part in log for label in part.get_ticklabels(which="both")}  # written by Matplotlib as math
    for text in set(figure.findobj(Text)) - powers:
        text.set_parse_math(False)  # a class may be called "$10"
    pixels, fine = io.BytesIO(), not any(axis.images for axis in figure.axes)
    figure.savefig(pixels, dpi=2 * DPI if fine else DPI, metadata={"Software": None})
    picture = PIL.Image.open(pixels).convert("RGB")
    for colors in (64,) if fine else (256, 128, 64):
        few = picture.quantize(colors, PIL.Image.Quantize.MEDIANCUT, dither=PIL.Image.Dither.NONE)
        few.save(path, "PNG", optimize=True)
        if path.stat().st_size <= LARGEST:
            break
    return Image(filename=str(path), alt=figure.get_suptitle(), retina=fine)  # shown at half its pixels


def show_figure(path: Path) -> Image:
    """A saved figure, to be shown in a notebook."""
    with PIL.Image.open(path) as picture:
        return Image(filename=str(path), retina=picture.width > WIDEST)


def save_part(source: Path, part: Sequence[float], path: Path) -> None:
    """Write a part of the PNG ``source``, (left, top, right, bottom) from 0 to 1, to ``path``."""
    picture = PIL.Image.open(source)
    picture.crop([round(share * side) for share, side in zip(part, picture.size * 2)]).save(path, "PNG")


def save_svg(figure: Figure, path: Path) -> None:
    """Write ``figure`` as SVG with its text as text, the same bytes each time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "course"}):
        figure.savefig(path, metadata={"Date": None, "Creator": None})


def image_grid(images: np.ndarray, titles: Sequence[str], columns: int = 8, title: str = "",
               below: Sequence[np.ndarray] = (), heat: Sequence[np.ndarray] = (), names: Sequence[str] = (),
               outlines: np.ndarray | None = None) -> Figure:
    """``images`` (N, H, W, 3), uint8 or float 0 to 1, each under its title and above its counterparts in ``below``.

    With ``heat`` (L, N, H, W), 0 to 1, these are L times the images, overlaid by it, and ``names`` stand to their left;
    ``outlines`` (N, 4, 2), 0 to 1, are corners of a frame on each image. One matplotlib axes for all: one per image
    would take ten times as long.
    """
    layers, columns = [images, *(below or [images] * len(heat))], max(1, columns)
    lines = 1 + max(text.count("\n") for text in (*titles, ""))
    rows, block = max(1, -(-len(images) // columns)), 1.05 * len(layers) + 0.17 * lines  # in image sides
    across = 1.08 * columns - 0.08
    width = min(1.25 * columns, 14.5)  # inches
    figure, [[axis]] = new_figure(width, width / across * block * rows + 0.4, title=title)
    for k, text in enumerate(titles[:len(images)]):
        left, top = 1.08 * (k % columns), block * (k // columns)
        axis.text(left + 0.5, top - 0.03, text, ha="center", va="bottom", fontsize=8)
        for number, layer in enumerate(layers):
            place = (left, left + 1, top + 1.05 * number + 1, top + 1.05 * number)
            axis.imshow(layer[k], extent=place, interpolation="nearest")
            if number and len(heat):
                axis.imshow(heat[number - 1][k], extent=place, cmap="inferno", alpha=0.55, vmin=0, vmax=1,
                            interpolation="bilinear")
        if outlines is not None:
            axis.add_patch(Polygon(outlines[k] + (left, top), fill=False, edgecolor="#F0E442", linewidth=1.5))
        for number, name in enumerate(names if k % columns == 0 else (), 1):
            axis.text(-0.05, top + 1.05 * number + 0.5, name, ha="right", va="center", rotation=90, fontsize=8)
    axis.set(xlim=(-0.2 * bool(names), across), ylim=(block * rows - 0.17 * lines, -0.17 * lines), aspect="equal")
    axis.axis("off")
    return figure


def lr_range_test(lrs: Sequence[float], losses: Sequence[float], suggestion: float | None, title: str,
                  classes: int) -> Figure:
    """The loss over the learning rate until it diverges; lines: the loss of guessing, and ``suggestion`` if any."""
    lowest = int(np.argmin(losses))
    end = next((k for k in range(lowest, len(losses)) if losses[k] > 4 * losses[lowest]), len(losses))
    figure, [[axis]] = new_figure(6.5, 3.4, title=title)
    axis.plot(lrs[:end], losses[:end], color=BLUE)
    axis.axhline(np.log(classes), color="gray", linestyle=":", label=f"guessing: ln {classes} = {np.log(classes):.2f}")
    if suggestion:
        axis.axvline(suggestion, color=ORANGE, linestyle="--", label=f"suggested peak: {suggestion:.1e}")
    axis.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed (nats)")
    axis.legend(fontsize=8)
    style_axes(axis)
    return figure


def schedule(rates: Sequence[float], steps_per_epoch: int, title: str,
             momentum: Sequence[float] | None = None) -> Figure:
    """The learning rate of every step, over epochs, and on a second axis the momentum."""
    figure, [[axis]] = new_figure(6.5, 2.8, title=title)
    epochs, peak = np.arange(len(rates)) / steps_per_epoch, int(np.argmax(rates))
    axis.plot(epochs, rates, color=BLUE)
    if peak:
        axis.annotate(f"peak {rates[peak]:.2g} at epoch {epochs[peak]:.1f}", (epochs[peak], rates[peak]), xytext=(6, 5),
                      textcoords="offset points", fontsize=8)
    axis.set(xlabel="epoch", ylabel="learning rate", ylim=(0, 1.2 * rates[peak]))
    style_axes(axis)
    if momentum is not None:
        other = axis.twinx()
        other.plot(epochs, momentum, color=ORANGE, linestyle="--")
        other.set_ylabel("momentum (dashed)", color=ORANGE)
        other.spines["top"].set_visible(False)
    return figure


def curves(history: History, title: str) -> Figure:
    """Loss and accuracy over epochs: training images as augmented, and test (or validation) images."""
    other, name = ("val", "validation") if "val_loss" in history[0] else ("test", "test, plain")
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
    figure, axes = new_figure(9, 3.5, 1, 2, title)
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
    return figure


def per_class(accuracy: np.ndarray, classes: Sequence[str], title: str, worst: int | None = None) -> Figure:
    """Accuracy of each class (0 to 1), the best first; with ``worst`` so many of the worst alone."""
    order = np.argsort(accuracy)[:worst]
    figure, [[axis]] = new_figure(6.5, 0.28 * len(order) + 1, title=title)
    bars = axis.barh([classes[k] for k in order], 100 * accuracy[order], color=BLUE)
    axis.bar_label(bars, fmt="%.1f", padding=3, fontsize=8)
    axis.set(xlabel="accuracy (%)", xlim=(0, 108))
    axis.margins(y=0.01)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def top_confusions(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """The 15 most frequent confusions of a matrix (classes, classes), as bars with their numbers of images."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    pairs = [divmod(int(k), len(matrix)) for k in np.argsort(-wrong, axis=None, kind="stable")[:15]]
    pairs = [pair for pair in pairs if wrong[pair]][::-1]
    figure, [[axis]] = new_figure(9, 0.28 * max(1, len(pairs)) + 1, title=title)
    bars = axis.barh([f"{classes[true]} → {classes[predicted]}" for true, predicted in pairs],
                     [wrong[pair] for pair in pairs], color=BLUE)
    axis.bar_label(bars, [f"{wrong[pair]} of {matrix[pair[0]].sum()}" for pair in pairs], padding=3, fontsize=8)
    axis.set(xlabel="images: true class → predicted class")
    axis.margins(x=0.15, y=0.01)
    axis.spines[["top", "right"]].set_visible(False)
    return figure


def confusion(matrix: np.ndarray, classes: Sequence[str], title: str) -> Figure:
    """Confusion matrix (classes, classes): rows: true class, columns: predicted class; percent of the true class."""
    if len(classes) > 20:  # a matrix would be illegible
        return top_confusions(matrix, classes, title)
    side = 0.5 * len(classes) + 2
    figure, [[axis]] = new_figure(side, side, title=title)
    share = 100 * matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=100)
    for row, column in np.ndindex(matrix.shape):
        if matrix[row, column]:
            axis.text(column, row, f"{share[row, column]:.1f}", ha="center", va="center", fontsize=7.5,
                      color="white" if share[row, column] > 50 else "black")
    axis.set_xticks(range(len(classes)), classes, rotation=45, ha="right", fontsize=9)
    axis.set_yticks(range(len(classes)), classes, fontsize=9)
    axis.set(xlabel="predicted class", ylabel="true class (100 % per row)")
    return figure
