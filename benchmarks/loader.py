"""Augmented batches per second: the baseline (one image at a time, two workers) and ours, in turns.

    python -m benchmarks.loader [--rounds 5] [--images 10000]

CIFAR-10 as ``s7`` has it (baseline: Albumentations), STL-10 at 96 pixels as 2.2-custom has it (torchvision). The
baseline's workers start within the measured time, as they would in an epoch. Real data must be prepared.
"""
from collections.abc import Callable
from pathlib import Path

from benchmarks import baseline, timing
from course_utils.data import BatchLoader, open_dataset
from course_utils.training import select_device
from course_utils.variants import load_experiment

ROWS = {  # title -> assignment, variant, baseline's transform, wanted ratio
    "CIFAR-10: flip, affine, gray, hole": ("cifar10_dilated_depthwise", "s7", baseline.cifar10_transform, 10.0),
    "STL-10, 96x96: rotation, crop, color": ("stl10_versions", "2.2-custom", baseline.stl10_transform, 6.0),
}


def main() -> None:
    """Print a Markdown table."""
    parser = timing.parser(__doc__)
    parser.add_argument("--images", type=int, default=10_000, help="images per round (of STL-10 at most 5,000)")
    args = parser.parse_args()
    timing.show(timing.table(measure(args.rounds, args.images, args.root)))


def measure(rounds: int, images: int, root: Path | None = None) -> list[timing.Row]:
    """A row for each data set."""
    return [timing.ratio_row(title, timing.in_processes(prepare, rounds, title, images, root), "images/s", row[-1])
            for title, row in ROWS.items()]


def prepare(way: str, title: str, images: int, root: Path | None) -> Callable[[], float]:
    """The function that goes once through the images and returns images per second."""
    assignment, variant, transform, _ = ROWS[title]
    exp = load_experiment(assignment, variant)
    data = open_dataset(exp.dataset, root, train_images=5_000 if exp.dataset == "stl10" else images)
    if way == "ours":
        select_device()  # sets how memory is kept
        ours = BatchLoader(data.train_images, data.train_labels, exp.batch_size, data.mean, data.std,
                           augmentation=exp.augmentation, shuffle=True)
        _drain(ours.epoch(2))  # warm-up
        return lambda: len(data.train_labels) / timing.seconds(lambda: _drain(ours.epoch(2)))
    theirs = baseline.loader(baseline.Images(data.train_images, data.train_labels, transform(data.mean, data.std)),
                             exp.batch_size)
    return lambda: len(data.train_labels) / timing.seconds(lambda: _drain(theirs))


def _drain(batches: object) -> None:
    for _ in batches:
        pass


if __name__ == "__main__":
    main()
