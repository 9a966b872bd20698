"""Augmented 96x96 batches of STL-10, as version 2.2 has them: the plain way and ours, in turns.

    python -m benchmarks.stl10 [--rounds 5] [--images 1000]

Turned by up to 45 degrees, cropped and resized to 96 pixels, recoloured, mirrored, normalised. Each round measures both
ways on equally many images, one after the other. Real STL-10 must be prepared.
"""
from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from pathlib import Path

import torch

from benchmarks import plain
from course_utils import hardware
from course_utils.datasets import open_dataset
from course_utils.experiment import load
from course_utils.loader import Batches

BATCH = 128  # as published


def main() -> None:
    """Prints a Markdown table: median images a second over the rounds, and the median of the rounds' ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000, help="images a round, at most 5,000")
    parser.add_argument("--root", type=Path, help="folder of the data sets")
    args = parser.parse_args()
    exp = load("stl10_versions", "2.2-custom")
    data = open_dataset(exp.dataset, args.root, train_images=args.images)
    hardware.choose_machine("fp32")  # our way of keeping memory is part of ours
    pictures = plain.Images(data.train_images, data.train_labels, plain.stl10_transform(data.mean, data.std))
    theirs = plain.loader(pictures, BATCH)
    ours = Batches(data.train_images, data.train_labels, BATCH, data.mean, data.std, augmentation=exp.augmentation,
                   shuffle=True)
    _seconds(ours.epoch(1))  # what is done once; the plain way's workers start in every epoch, as in a run
    rates: dict[str, list[float]] = {"plain": [], "ours": []}
    for number in range(args.rounds):
        rates["plain"].append(args.images / _seconds(theirs))
        rates["ours"].append(args.images / _seconds(ours.epoch(2 + number)))
        print(f"round {number + 1}: {rates['plain'][-1]:,.0f} and {rates['ours'][-1]:,.0f} images/s", flush=True)
    ratio = statistics.median(b / a for a, b in zip(rates["plain"], rates["ours"]))
    print(f"\n{hardware.machine_words()}, {torch.get_num_threads()} threads, {args.rounds} rounds of {args.images:,}\n")
    print("| STL-10, augmented, batch 128 | plain way, images/s | ours, images/s | ratio |\n| --- | --- | --- | --- |")
    print(f"| 96x96, torchvision with 2 workers | {statistics.median(rates['plain']):,.0f} "
          f"| {statistics.median(rates['ours']):,.0f} | {ratio:.1f} |")


def _seconds(batches: Iterable) -> float:
    begun = time.perf_counter()
    for _ in batches:
        pass
    return time.perf_counter() - begun


if __name__ == "__main__":
    main()
