"""Cost against work: is it linear, and how much does a unit of it cost?

    python -m benchmarks.course

Seconds of an epoch of augmented batches against images, of a training step against the batch size, and of a batch of
notebooks against their number; a straight line through each, by least squares. Real CIFAR-10 must be prepared.
"""
from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks import startup, turns
from course_utils import plots
from course_utils.training import device as hardware
from course_utils.data.datasets import open_dataset
from course_utils.variants import load_experiment
from course_utils.data.loader import BatchLoader
from course_utils.models import build_model
from course_utils.training.step import train_step

IMAGES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000)
BATCH_SIZES = (16, 32, 64, 128, 256)
NOTEBOOKS = (1, 2, 4, 8)


@dataclass(frozen=True)
class Line:
    """Seconds against an amount of work."""

    what: str
    amounts: list[int]
    seconds: list[float]  # median over the rounds
    unit: str  # of the slope, in words
    scale: float  # from seconds for one to that unit

    @property
    def fit(self) -> tuple[float, float, float]:
        """Seconds for one more, seconds for none, and R squared."""
        slope, start = np.polyfit(self.amounts, self.seconds, 1)
        rest = np.array(self.seconds) - (start + slope * np.array(self.amounts))
        return float(slope), float(start), float(1 - rest.var() / np.var(self.seconds))


def main() -> None:
    """Prints a Markdown table."""
    args = turns.parser(__doc__, rounds=3).parse_args()
    turns.show(table(measure(args.rounds, args.root)))


def measure(rounds: int, root: Path | None = None) -> list[Line]:
    """A line for images, one for the batch size, one for notebooks."""
    exp = load_experiment("cifar10_dilated_depthwise", "s7")
    data, machine = open_dataset(exp.dataset, root), hardware.select_device("fp32")

    def epoch(count: int) -> float:
        batches = BatchLoader(data.train_images[:count], data.train_labels[:count], exp.batch_size, data.mean, data.std,
                          augmentation=exp.augmentation, shuffle=True)
        return turns.seconds(lambda: turns.drain(batches.epoch(1)))

    step = train_step(exp, build_model(exp.model, len(data.classes)), 0.01, machine)
    batches = BatchLoader(data.train_images[:512], data.train_labels[:512], max(BATCH_SIZES), data.mean, data.std)
    x, y = next(batches.epoch(1))
    with tempfile.TemporaryDirectory() as scratch:
        notebook = startup.write(Path(scratch), "ours", startup.OURS)
        return [
            _line("an epoch of augmented CIFAR-10, by images", IMAGES, epoch, rounds, "microseconds an image", 1e6),
            _line("a training step of s7, by batch size", BATCH_SIZES,
                  lambda size: turns.seconds(lambda: step(x[:size], y[:size])), rounds, "milliseconds an image", 1e3),
            _line("notebooks to their first step, one after the other", NOTEBOOKS,
                  lambda count: sum(startup.by_server(notebook) for _ in range(count)), rounds, "s a notebook", 1),
        ]


def _line(what: str, amounts: Sequence[int], cost: Callable[[int], float], rounds: int, unit: str,
          scale: float) -> Line:
    cost(amounts[0])  # what is done once
    found = [[cost(amount) for amount in amounts] for _ in range(rounds)]
    return Line(what, list(amounts), [statistics.median(column) for column in zip(*found)], unit, scale)


def table(lines: Sequence[Line]) -> str:
    """Markdown: what each line costs."""
    rows = ["| what | from | to | each more | the first costs besides | R² |", "|" + " --- |" * 6]
    for line in lines:
        slope, start, straight = line.fit
        rows.append(f"| {line.what} | {line.amounts[0]:,} | {line.amounts[-1]:,} | {line.scale * slope:.3g} "
                    f"{line.unit} | {max(0.0, start):.2f} s | {straight:.4f} |")
    return "\n".join(rows)


def draw(lines: Sequence[Line]) -> Figure:
    """The measured seconds as dots, and the straight lines through them."""
    figure = Figure(figsize=(4 * len(lines), 3.2), layout="constrained", facecolor="white")
    for axis, line in zip(figure.subplots(1, len(lines)), lines):
        slope, start, _ = line.fit
        axis.plot(line.amounts, line.seconds, "o", color=plots.BLUE)
        axis.plot(line.amounts, [start + slope * amount for amount in line.amounts], color=plots.ORANGE,
                  label=f"{line.scale * slope:.3g} {line.unit}")
        axis.set(xlabel=line.what, ylabel="seconds", ylim=(0, None))
        axis.legend(fontsize=8)
        axis.grid(alpha=0.25)
    return figure


if __name__ == "__main__":
    main()
