"""One pass over GTSRB's 274,457 augmented images: the plain way and ours, in turns.

    python -m benchmarks.gtsrb [--rounds 5] [--items 8192]

Each round measures both ways on equally many random items, with LeNet's training and without, one after the other, so
that a busy machine slows both. Without ``--items`` a round is the whole pass. Real GTSRB must be prepared.
"""
from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import plain
from course_utils import hardware, train
from course_utils.datasets import Dataset, Items, expand, open_dataset
from course_utils.experiment import Experiment, load
from course_utils.loader import Batches
from course_utils.models import build_model

BATCH = 256  # as published
WARM_UP = 4  # batches before the clock starts, ours alone; the plain way's workers start inside its time, as in a run


def main() -> None:
    """Prints a Markdown table: median images a second over the rounds, and the median of the rounds' ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--items", type=int, help="items a round (default: all 274,457)")
    parser.add_argument("--root", type=Path, help="folder of the data sets")
    args = parser.parse_args()
    exp = load("gtsrb_stn", "lenet")
    data = open_dataset(exp.dataset, args.root)
    items = expand(len(data.train_labels), len(exp.expansion), exp.seed)
    machine = hardware.choose_machine("fp32")
    rows = {what: {"plain": [], "ours": []} for what in ("batches alone", "LeNet trained")}
    with tempfile.TemporaryDirectory() as scratch:
        plain.write_pictures(data.train_images, Path(scratch))
        for number in range(args.rounds):
            chosen = np.random.default_rng(number).permutation(len(items))[:args.items]
            part = items[np.sort(chosen)]
            for what, seconds in measure(exp, data, part, Path(scratch), machine).items():
                for way, value in seconds.items():
                    rows[what][way].append(len(part) / value)
            print(f"round {number + 1}: " + "; ".join(
                f"{what}: {found['plain'][-1]:,.0f} and {found['ours'][-1]:,.0f} images/s"
                for what, found in rows.items()), flush=True)
    print(f"\n{hardware.machine_words()}, {torch.get_num_threads()} threads, {args.rounds} rounds of {len(part):,}\n")
    print("| GTSRB, augmented, batch 256 | plain way, images/s | ours, images/s | ratio |\n| --- | --- | --- | --- |")
    for what, found in rows.items():
        ratio = statistics.median(b / a for a, b in zip(found["plain"], found["ours"]))
        print(f"| {what} | {statistics.median(found['plain']):,.0f} | {statistics.median(found['ours']):,.0f} "
              f"| {ratio:.1f} |")


def measure(exp: Experiment, data: Dataset, items: Items, folder: Path,
            machine: hardware.Machine) -> dict[str, dict[str, float]]:
    """Seconds of one pass over ``items``: what is measured -> way -> seconds."""
    pictures = plain.Pictures(folder, data.train_labels, items, plain.gtsrb_transforms(data.mean, data.std))
    batches = Batches(data.train_images, data.train_labels, BATCH, data.mean, data.std, items=items,
                      expansion=exp.expansion, shuffle=True)
    model = build_model(exp.model, len(data.classes))
    adam = torch.optim.Adam(model.parameters(), exp.lr, weight_decay=exp.weight_decay)
    ours = train.make_step(exp, build_model(exp.model, len(data.classes)), exp.lr, machine)
    for (x, y), _ in zip(batches.epoch(2), range(WARM_UP)):
        ours(x, y)
    return {
        "batches alone": {"plain": _seconds(lambda: _drain(plain.loader(pictures, BATCH))),
                          "ours": _seconds(lambda: _drain(batches.epoch(1)))},
        "LeNet trained": {"plain": _seconds(lambda: plain.train(model, adam, plain.loader(pictures, BATCH))),
                          "ours": _seconds(lambda: [ours(x, y) for x, y in batches.epoch(1)])},
    }


def _drain(batches: object) -> None:
    for _ in batches:
        pass


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
