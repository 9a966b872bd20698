"""Augmented batches: the plain way, one image at a time in two workers, and ours, in turns.

    python -m benchmarks.loader [--rounds 5] [--images 10000]

CIFAR-10 as ``s7`` has it (the plain way by Albumentations); STL-10 at 96 pixels as version 2.2-custom has it, and GTSRB
with its twelve transforms (by torchvision), the latter also with LeNet's training. Both ways begin their workers within
the time, as they would in an epoch. Real data must be prepared.
"""
from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks import plain, turns
from course_utils import hardware, train
from course_utils.augment import albumentations_pipeline
from course_utils.datasets import Dataset, expand, open_dataset
from course_utils.experiment import Experiment, load
from course_utils.loader import Batches
from course_utils.models import build_model

GTSRB_TRAINED = "GTSRB likewise, with LeNet's training"
GOALS = {"cifar10": 10.0, "stl10": 6.0, "gtsrb": 5.0}  # times the plain way


def main() -> None:
    """Prints a Markdown table."""
    parser = turns.parser(__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="images a round (of STL-10 at most 5,000)")
    args = parser.parse_args()
    turns.show(turns.table(measure(args.rounds, args.images, args.root)))


def measure(rounds: int, images: int, root: Path | None = None) -> list[turns.Row]:
    """A row for each data set, and one for GTSRB with training."""
    return [_cifar10(rounds, images, root), _stl10(rounds, min(images, 5_000), root), *_gtsrb(rounds, images, root)]


def _ours(exp: Experiment, data: Dataset, **settings: object) -> Batches:
    hardware.choose_machine("fp32")  # our way of keeping memory is part of ours
    batches = Batches(data.train_images, data.train_labels, exp.batch_size, data.mean, data.std,
                      augmentation=exp.augmentation, shuffle=True, **settings)
    turns.drain(batches.epoch(1))  # what is done once
    return batches


def _rates(theirs: Callable[[], object], ours: Callable[[], object], count: int, rounds: int) -> dict[str, list[float]]:
    """Images a second of either."""
    return turns.in_turns({"plain": lambda: count / turns.seconds(theirs), "ours": lambda: count / turns.seconds(ours)},
                          rounds)


def _cifar10(rounds: int, count: int, root: Path | None) -> turns.Row:
    exp = load("cifar10_dilated_depthwise", "s7")
    data = open_dataset(exp.dataset, root, train_images=count)
    pipeline = albumentations_pipeline(exp.augmentation, data.mean, data.std)

    def transform(picture: Image.Image) -> torch.Tensor:
        return torch.from_numpy(pipeline(image=np.array(picture))["image"]).permute(2, 0, 1)

    theirs = plain.loader(plain.Images(data.train_images, data.train_labels, transform), exp.batch_size)
    ours = _ours(exp, data)
    found = _rates(lambda: turns.drain(theirs), lambda: turns.drain(ours.epoch(2)), count, rounds)
    return turns.compared("CIFAR-10, flip, affine, grey, hole", found, "images/s", GOALS["cifar10"])


def _stl10(rounds: int, count: int, root: Path | None) -> turns.Row:
    exp = load("stl10_versions", "2.2-custom")
    data = open_dataset(exp.dataset, root, train_images=count)
    pictures = plain.Images(data.train_images, data.train_labels, plain.stl10_transform(data.mean, data.std))
    theirs, ours = plain.loader(pictures, exp.batch_size), _ours(exp, data)
    found = _rates(lambda: turns.drain(theirs), lambda: turns.drain(ours.epoch(2)), count, rounds)
    return turns.compared("STL-10, 96x96, turned, cropped, recoloured", found, "images/s", GOALS["stl10"])


def _gtsrb(rounds: int, count: int, root: Path | None) -> list[turns.Row]:
    """On ``count`` random items of the 274,457 of a pass."""
    exp = load("gtsrb_stn", "lenet")
    data = open_dataset(exp.dataset, root)
    items = expand(len(data.train_labels), len(exp.expansion), exp.seed)
    part = items[np.sort(np.random.default_rng(0).permutation(len(items))[:count])]
    machine, classes = hardware.choose_machine("fp32"), len(data.classes)
    model = build_model(exp.model, classes)
    adam = torch.optim.Adam(model.parameters(), exp.lr, weight_decay=exp.weight_decay)
    step = train.make_step(exp, build_model(exp.model, classes), exp.lr, machine)
    batches = _ours(exp, data, items=part, expansion=exp.expansion)
    with tempfile.TemporaryDirectory() as scratch:
        plain.write_pictures(data.train_images, Path(scratch))
        pictures = plain.Pictures(Path(scratch), data.train_labels, part, plain.gtsrb_transforms(data.mean, data.std))
        alone = _rates(lambda: turns.drain(plain.loader(pictures, exp.batch_size)),
                       lambda: turns.drain(batches.epoch(2)), count, rounds)
        trained = _rates(lambda: plain.train(model, adam, plain.loader(pictures, exp.batch_size)),
                         lambda: [step(x, y) for x, y in batches.epoch(2)], count, rounds)
    return [turns.compared("GTSRB, twelve transforms, from PNG files", alone, "images/s"),
            turns.compared(GTSRB_TRAINED, trained, "images/s", GOALS["gtsrb"])]


if __name__ == "__main__":
    main()
