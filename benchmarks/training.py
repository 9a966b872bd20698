"""Training steps of a variant: the plain way and ours, in turns, each in a process of its own.

    python -m benchmarks.training cifar10_dilated_depthwise:s7 [--rounds 5] [--steps 5]

Both start from the same weights and see the same augmented batches of real data, drawn before the clock starts; so the
losses are those of one training, and must agree. Plain: float32, the usual memory layout, the L1 penalty as a loop over
the parameters, ``.item()`` at every step.
"""
from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from benchmarks import plain, turns
from course_utils.models import summary as anatomy
from course_utils.training import device as hardware, optim
from course_utils.data.datasets import open_dataset
from course_utils.variants import load_experiment
from course_utils.data.loader import make_loaders
from course_utils.models import build_model
from course_utils.training.step import train_step

GOALS = {"cifar10_custom_resnet:published": 3.0, "cifar10_dilated_depthwise:s7": 4.5}  # times the plain way
BATCH = {"cifar10_custom_resnet:published": 128}  # instead of the variant's
CLOSE = 0.05  # the two ways' losses may differ by rounding, and by what training makes of it in some dozen steps


@dataclass(frozen=True)
class Part:
    """Some steps of a training."""

    rate: float  # images/s
    loss: float  # mean, nats
    precision: str


def main() -> None:
    """Prints a Markdown table."""
    parser = turns.parser(__doc__)
    parser.add_argument("variants", nargs="*", metavar="ASSIGNMENT:VARIANT", default=list(GOALS))
    parser.add_argument("--steps", type=int, default=5, help="optimiser steps a round")
    args = parser.parse_args()
    turns.show(turns.table(measure(args.rounds, args.steps, args.root, args.variants)))


def measure(rounds: int, steps: int, root: Path | None = None,
            variants: Sequence[str] = tuple(GOALS)) -> list[turns.Row]:
    """A row a variant. Raises ``RuntimeError`` when the two ways' losses go apart: then they are not one training."""
    return [_compare(name, rounds, steps, root) for name in variants]


def _compare(name: str, rounds: int, steps: int, root: Path | None) -> turns.Row:
    found = turns.in_processes(prepare, rounds, name, rounds, steps, root)
    precision = found["ours"][0].precision
    losses = [[part.loss for part in found[way]] for way in turns.WAYS]
    if precision == "fp32" and max(abs(a - b) for a, b in zip(*losses)) > CLOSE * losses[0][0]:
        raise RuntimeError(f"{name}: the losses of the two ways go apart: {losses}")
    rates = {way: [part.rate for part in parts] for way, parts in found.items()}
    return turns.compared(title(name), rates, f"images/s, {precision}", GOALS.get(name))


def title(name: str) -> str:
    """Of the row of a variant."""
    assignment, variant = name.split(":")
    return f"training step of {assignment}, {variant}, batch {BATCH.get(name) or load_experiment(assignment, variant).batch_size}"


def flop(model: nn.Module, image: tuple[int, int, int]) -> float:
    """Floating-point operations of a step's products for an ``image`` (C, H, W): a layer's forward, for the gradient of
    its input and for that of its weights.
    """
    return 3 * 2 * anatomy.mult_adds(model, (1, *image))


def prepare(way: str, name: str, rounds: int, steps: int, root: Path | None) -> Callable[[], Part]:
    """What takes the next ``steps`` steps of a training in this ``way``."""
    exp = load_experiment(*name.split(":", 1), batch_size=BATCH.get(name))
    data = open_dataset(exp.dataset, root)
    machine = hardware.select_device(exp.precision) if way == "ours" else None
    batches = make_loaders(exp, data, machine.placement if machine else {"device": "cpu", "rank": 0, "world": 1}).train
    drawn = list(itertools.islice(batches.epoch(1), 1 + rounds * steps))
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes), **exp.model_settings).train()
    rate = optim.learning_rates(exp, exp.lr or 0.01, len(batches))[0]
    if machine:
        step = train_step(exp, model, rate, machine)
    else:
        drawn = [(x.contiguous(), y) for x, y in drawn]
        optimizer = plain.optimizer_for(model, exp.optimizer, rate, exp.momentum, exp.weight_decay)

        def step(x: torch.Tensor, y: torch.Tensor) -> float:
            return plain.step(model, optimizer, x, y, exp.l1)

    step(*drawn.pop())  # what is done once

    def measure() -> Part:
        begun = time.perf_counter()
        losses = [float(step(*drawn.pop(0))) for _ in range(steps)]
        seconds = time.perf_counter() - begun
        return Part(steps * exp.batch_size / seconds, statistics.fmean(losses),
                    machine.precision if machine else "fp32")

    return measure


if __name__ == "__main__":
    main()
