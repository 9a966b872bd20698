"""The first training steps of any variant on real data: is its loss falling, and how long would the whole run take?

    python -m benchmarks.steps gtsrb_stn:vgg16 gtsrb_stn:best [--steps 100] [--batch-size 64] [--lr 0.0001]
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch

from course_utils.training import device as hardware
from course_utils.runner.estimate import first_steps
from course_utils.variants import load_experiment

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
    print(f"{hardware.describe_machine()}, {torch.get_num_threads()} threads\n\n"
          "| variant | batch | mean loss, by fifths | images/s | hours, first stage |\n|" + " --- |" * 5, flush=True)
    for name in args.variants:
        cells = row(name, args.steps, args.batch_size, args.lr, args.root)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def row(name: str, steps: int, batch_size: int | None = None, lr: float | None = None,
        root: Path | None = None) -> list[str]:
    """Train for ``steps`` steps and tell: batch size, losses, images a second and hours that all epochs of the
    first stage would take.
    """
    exp = load_experiment(*name.split(":", 1), batch_size=batch_size, lr=lr)
    losses, seconds, per_epoch = first_steps(exp, steps, root)
    fifths = [losses[k * len(losses) // PARTS:(k + 1) * len(losses) // PARTS] for k in range(PARTS)]
    means = " → ".join(f"{sum(part) / len(part):.2f}" for part in fifths)
    hours = exp.epochs * per_epoch * seconds / 3600
    return [f"{exp.batch_size}", means, f"{exp.batch_size / seconds:.0f}", f"{hours:.1f}"]


if __name__ == "__main__":
    main()
