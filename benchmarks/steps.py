"""The first training steps of any variant on real data: is its loss falling, and how long would the whole run take?

    python -m benchmarks.steps gtsrb_stn:vgg16 gtsrb_stn:best [--steps 100] [--batch-size 64] [--lr 0.0001]
"""
from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path

import torch

from course_utils import hardware, optim, train
from course_utils.datasets import open_dataset
from course_utils.experiment import load
from course_utils.loader import make_loaders
from course_utils.models import build_model

PARTS = 5  # the losses are shown as so many means


def main() -> None:
    """Prints one Markdown row a variant: its loss in fifths of the steps, images a second, hours (first stage)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variants", nargs="+", metavar="ASSIGNMENT:VARIANT")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--batch-size", type=int, help="instead of the variant's")
    parser.add_argument("--lr", type=float, help="learning rate, instead of the variant's")
    parser.add_argument("--root", type=Path, help="folder of the data sets")
    args = parser.parse_args()
    print(f"{hardware.machine_words()}, {torch.get_num_threads()} threads\n\n"
          "| variant | batch | mean loss, by fifths | images/s | hours, first stage |\n|" + " --- |" * 5, flush=True)
    for name in args.variants:
        row = first_steps(name, args.steps, args.batch_size, args.lr, args.root)
        print(f"| {name} | " + " | ".join(row) + " |", flush=True)


def first_steps(name: str, steps: int, batch_size: int | None = None, lr: float | None = None,
                root: Path | None = None) -> list[str]:
    """Train for ``steps`` steps and tell: batch size, losses, images a second and hours that all epochs of the
    first stage would take."""
    exp = load(*name.split(":", 1), batch_size=batch_size, lr=lr)
    data = open_dataset(exp.dataset, root)
    machine = hardware.choose_machine(exp.precision)
    batches = make_loaders(exp, data, machine.placement).train
    torch.manual_seed(exp.seed)
    peak = exp.lr or 0.001  # a range test would be part of the run, not of its first steps
    rates = optim.learning_rates(exp, peak, len(batches))
    step = train.make_step(exp, build_model(exp.model, len(data.classes), **exp.model_settings), rates[0], machine)
    begun, losses, images = time.perf_counter(), [], 0
    for x, y in itertools.islice(batches.epoch(1), steps):
        losses.append(step(x, y))
        images += len(y)
    losses = torch.stack(losses).tolist()  # waits for the device
    rate = images / (time.perf_counter() - begun)
    fifths = [losses[k * len(losses) // PARTS:(k + 1) * len(losses) // PARTS] for k in range(PARTS)]
    means = " → ".join(f"{sum(part) / len(part):.2f}" for part in fifths)
    hours = exp.epochs * exp.passes * len(batches.items) / rate / 3600
    return [f"{exp.batch_size}", means, f"{rate:.0f}", f"{hours:.1f}"]


if __name__ == "__main__":
    main()
