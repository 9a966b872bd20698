"""Where the time goes, of what is measured elsewhere: by operator, by import, and against the rate of plain products.

    python -m benchmarks.profiles
"""
from __future__ import annotations

import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks import loader, startup, training, turns
from course_utils.training import device as hardware
from course_utils.data.datasets import open_dataset
from course_utils.variants import load_experiment
from course_utils.data.loader import BatchLoader, make_loaders
from course_utils.models import build_model
from course_utils.training.step import train_step

SHOWN = 6  # lines of a profile
STEPS = 4  # training steps profiled or timed
SIDE = 2_048  # of the square matrices whose product tells what the processor can do
IMPORTS = ("torch", "torch._dynamo", "matplotlib.axes", "accelerate", "numpy", "papermill", "ipykernel.kernelapp")
LENET, RESNET, S7 = "gtsrb_stn:lenet", "cifar10_custom_resnet:published", "cifar10_dilated_depthwise:s7"


@dataclass(frozen=True)
class Bound:
    """What one row of the comparisons could be at best on this machine."""

    what: str  # its row
    gain: float  # times as fast as ours, measured in turns with it
    why: str


@dataclass(frozen=True)
class Training:
    """A variant's network, ready for its next step on real data."""

    batches: BatchLoader
    drawn: list[tuple[Tensor, Tensor]]  # batches, kept
    step: Callable[[Tensor, Tensor], Tensor]
    flop: float  # of all products of one step, an image

    def steps(self) -> None:
        """Take one on each batch kept."""
        for x, y in self.drawn:
            self.step(x, y)

    def epoch(self) -> None:
        """Draw batches, and take a step on each."""
        for x, y in self.batches.epoch(2):
            self.step(x, y)


def main() -> None:
    """Prints a Markdown table for each."""
    args = turns.parser(__doc__).parse_args()
    turns.show("\n\n".join(f"{what}:\n\n{table}" for what, table in measure(args.rounds, args.root)[0].items()))


def measure(rounds: int, root: Path | None = None) -> tuple[dict[str, str], list[Bound]]:
    """Heading -> table; and the bounds."""
    lenet, resnet, s7 = (_training(name, root) for name in (LENET, RESNET, S7))
    rates, best, loaded = _rates({LENET: lenet, RESNET: resnet, S7: s7}, rounds)
    bounds = [Bound(loader.GTSRB_TRAINED, rates[LENET] / loaded, "LeNet's training alone, its batches for nothing"),
              Bound(training.title(RESNET), best / resnet.flop / rates[RESNET],
                    f"a matrix product of side {SIDE:,} for all its own")]
    shown = {"`s7`": (s7, rates[S7]), "custom ResNet": (resnet, rates[RESNET]), "LeNet": (lenet, rates[LENET])}
    tables = {
        "A training step of `s7`, by operator": _operators(s7.steps),
        "A training step of the custom ResNet, by operator": _operators(resnet.steps),
        "GTSRB with its twelve transforms and LeNet's training, by operator": _operators(lenet.epoch),
        "Augmented batches of CIFAR-10 as `s7` has them, by operator": _operators(
            lambda: turns.drain(s7.batches.epoch(2))),
        f"Training steps, against a matrix product of side {SIDE:,}": _against(shown, best),
        "To the first training step, by import": _imports(),
    }
    return tables, bounds


def _training(name: str, root: Path | None) -> Training:
    exp = load_experiment(*name.split(":"), batch_size=training.BATCH.get(name), precision="fp32")
    data = open_dataset(exp.dataset, root, train_images=5_120, test_images=100)
    machine = hardware.select_device(exp.precision)
    batches = make_loaders(exp, data, machine.placement).train
    model = build_model(exp.model, len(data.classes), **exp.model_settings)
    step = train_step(exp, model, 0.001, machine)
    drawn = [batch for batch, _ in zip(batches.epoch(1), range(STEPS + 1))]
    step(*drawn.pop())  # what is done once
    return Training(batches, drawn, step, training.flop(model, drawn[0][0].shape[1:]))


def _operators(work: Callable[[], None]) -> str:
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    lines = [f"| `{row.key}` | {row.self_cpu_time_total / whole:.0%} |" for row in rows[:SHOWN]]
    rest = sum(row.self_cpu_time_total for row in rows[SHOWN:]) / whole
    return "\n".join(["| operator | share of the time |", "| --- | --- |", *lines, f"| all others | {rest:.0%} |"])


def _rates(trainings: dict[str, Training], rounds: int) -> tuple[dict[str, float], float, float]:
    """Images a second of training steps, floating-point operations a second of a large product of matrices, and images
    a second of LeNet's steps with the batches drawn as well; all in turns.
    """
    a, lenet = torch.rand(SIDE, SIDE), trainings[LENET]
    ways = {"product": lambda: turns.seconds(lambda: a @ a), "epoch": lambda: turns.seconds(lenet.epoch), **{
        name: (lambda one=one: turns.seconds(one.steps)) for name, one in trainings.items()}}
    found = {name: statistics.median(times) for name, times in turns.in_turns(ways, rounds).items()}
    rates = {name: sum(len(y) for _, y in one.drawn) / found[name] for name, one in trainings.items()}
    return rates, 2 * SIDE ** 3 / found["product"], len(lenet.batches.items) / found["epoch"]


def _against(trainings: dict[str, tuple[Training, float]], best: float) -> str:
    lines = ["| training step | GFLOP an image | images/s | GFLOP/s | share of the product's rate |",
             "|" + " --- |" * 5]
    for name, (one, rate) in trainings.items():
        lines.append(f"| {name} | {one.flop / 1e9:.3g} | {rate:,.0f} | {rate * one.flop / 1e9:.3g} of "
                     f"{best / 1e9:.3g} | {rate * one.flop / best:.0%} |")
    return "\n".join(lines)


def _imports() -> str:
    """Seconds of whole imports, which may hold each other; ``torch._dynamo`` is what torch's optimisers import."""
    code = startup.OURS[0] + "\nimport torch._dynamo, papermill, ipykernel.kernelapp"
    told = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True).stderr
    seconds = {name: int(total) / 1e6 for total, name in re.findall(r"\|\s*(\d+) \|\s*(\S+)$", told, re.MULTILINE)}
    lines = [f"| `{name}` | {seconds[name]:.2f} |" for name in sorted(IMPORTS, key=lambda name: -seconds[name])]
    return "\n".join(["| import | s |", "| --- | --- |", *lines])


if __name__ == "__main__":
    main()
