"""Augmented batches: the plain way, one image at a time in two workers, and ours, in turns.

    python -m benchmarks.loader [--rounds 5] [--images 10000]

CIFAR-10 as ``s7`` has it (the plain way by Albumentations); STL-10 at 96 pixels as version 2.2-custom has it, and GTSRB
with its twelve transforms (by torchvision), the latter also with LeNet's training. Both ways begin their workers within
the time, as they would in an epoch. Real data must be prepared.
"""
from __future__ import annotations

import functools
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from benchmarks import plain, turns
from course_utils.training import device as hardware
from course_utils.augment.pipeline import albumentations_pipeline
from course_utils.data.datasets import DATASETS, Dataset, expand, open_dataset
from course_utils.config import Experiment
from course_utils.variants import load_experiment
from course_utils.data.loader import BatchLoader
from course_utils.models import build_model
from course_utils.training.step import train_step

GTSRB_TRAINED = "GTSRB likewise, with LeNet's training"
Pass = Callable[[], object]


def main() -> None:
    """Prints a Markdown table."""
    parser = turns.parser(__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="images a round (of STL-10 at most 5,000)")
    args = parser.parse_args()
    turns.show(turns.table(measure(args.rounds, args.images, args.root)))


def measure(rounds: int, images: int, root: Path | None = None) -> list[turns.Row]:
    """A row for each data set, and one for GTSRB with training."""
    with tempfile.TemporaryDirectory() as folder:
        return [turns.compared(title, turns.in_processes(prepare, rounds, title, images, root, Path(folder)),
                               "images/s", goal) for title, (_, goal) in ROWS.items()]


def prepare(way: str, title: str, images: int, root: Path | None, folder: Path) -> Callable[[], float]:
    """What goes once through the images in this ``way``, and tells images a second. ``folder`` is for files."""
    if way == "ours":
        hardware.select_device("fp32")  # our way of keeping memory is part of ours
    once, count = ROWS[title][0](way, images, root, folder)
    if way == "ours":
        once()  # what is done once
    return lambda: count / turns.seconds(once)


def _ours(exp: Experiment, data: Dataset, **settings: object) -> BatchLoader:
    return BatchLoader(data.train_images, data.train_labels, exp.batch_size, data.mean, data.std,
                   augmentation=exp.augmentation, shuffle=True, **settings)


def _cifar10(way: str, images: int, root: Path | None, _: Path) -> tuple[Pass, int]:
    exp = load_experiment("cifar10_dilated_depthwise", "s7")
    data = open_dataset(exp.dataset, root, train_images=images)
    pipeline = albumentations_pipeline(exp.augmentation, data.mean, data.std)
    return _drained(way, exp, data, functools.partial(plain.by_albumentations, pipeline)), images


def _stl10(way: str, images: int, root: Path | None, _: Path) -> tuple[Pass, int]:
    exp = load_experiment("stl10_versions", "2.2-custom")
    data = open_dataset(exp.dataset, root, train_images=min(images, 5_000))
    return _drained(way, exp, data, plain.stl10_transform(data.mean, data.std)), len(data.train_labels)


def _drained(way: str, exp: Experiment, data: Dataset, transform: Callable) -> Pass:
    if way == "ours":
        ours = _ours(exp, data)
        return lambda: turns.drain(ours.epoch(2))
    theirs = plain.loader(plain.Images(data.train_images, data.train_labels, transform), exp.batch_size)
    return lambda: turns.drain(theirs)


def _gtsrb(way: str, images: int, root: Path | None, folder: Path) -> tuple[Pass, int]:
    _, batches = _signs(way, images, root, folder)
    return lambda: turns.drain(batches()), images


def _gtsrb_trained(way: str, images: int, root: Path | None, folder: Path) -> tuple[Pass, int]:
    exp, batches = _signs(way, images, root, folder)
    model = build_model(exp.model, DATASETS[exp.dataset].classes)
    if way == "ours":
        step = train_step(exp, model, exp.lr, hardware.select_device("fp32"))
        return lambda: [step(x, y) for x, y in batches()], images
    adam = plain.optimizer_for(model, exp.optimizer, exp.lr, exp.momentum, exp.weight_decay)
    return lambda: plain.train(model, adam, batches()), images


def _signs(way: str, images: int, root: Path | None, folder: Path) -> tuple[Experiment, Callable[[], Iterable]]:
    """What makes batches of so many random items of the 274,457 of a pass."""
    exp = load_experiment("gtsrb_stn", "lenet")
    data = open_dataset(exp.dataset, root)
    items = expand(len(data.train_labels), len(exp.expansion), exp.seed)
    part = items[np.sort(np.random.default_rng(0).permutation(len(items))[:images])]
    if way == "ours":
        ours = _ours(exp, data, items=part, expansion=exp.expansion)
        return exp, lambda: ours.epoch(2)
    if not any(folder.iterdir()):  # else the row before left them
        plain.write_pictures(data.train_images, folder)
    pictures = plain.Pictures(folder, data.train_labels, part, plain.gtsrb_transforms(data.mean, data.std))
    return exp, lambda: plain.loader(pictures, exp.batch_size)


ROWS = {  # title -> what prepares it, how many times faster than the plain way it is to be
    "CIFAR-10, flip, affine, grey, hole": (_cifar10, 10.0),
    "STL-10, 96x96, turned, cropped, recoloured": (_stl10, 6.0),
    "GTSRB, twelve transforms, from PNG files": (_gtsrb, None),
    GTSRB_TRAINED: (_gtsrb_trained, 5.0),
}

if __name__ == "__main__":
    main()
