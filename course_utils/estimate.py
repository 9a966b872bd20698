"""How long runs will take: by earlier runs on a like machine, else by a few measured steps."""
from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import torch

from course_utils import hardware, optim, record, train
from course_utils.datasets import open_dataset
from course_utils.errors import CourseError
from course_utils.experiment import ASSIGNMENTS, Experiment
from course_utils.loader import make_loaders
from course_utils.models import build_model

STEPS = 3  # measured, after one that warms up
COST = ("assignment", "variant", "model", "model_file", "data", "train_images", "engine")  # what an epoch's time is of


@dataclass(frozen=True)
class Estimate:
    """Of one run."""

    seconds: float  # of training, all its epochs, evaluation after each apart
    source: str  # what it is judged by


def estimates(experiments: Sequence[Experiment], folders: Sequence[Path]) -> list[Estimate]:
    """One for each; ``folders`` may hold earlier runs besides the published ones.

    What nothing is known of is measured in a process of its own, which leaves no memory taken on a GPU. Raises
    ``CourseError`` where a run could not even begin: no data, a network that cannot be built.
    """
    earlier = list(_records(folders))
    known = [_by_earlier(exp, earlier) for exp in experiments]
    unknown = [exp for exp, found in zip(experiments, known) if found is None]
    if not unknown:
        return known
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        measured = pool.map(_measured, unknown)
        return [found or next(measured) for found in known]


def _records(folders: Sequence[Path]) -> Iterator[record.Record]:
    for path in (*ASSIGNMENTS.glob("*/results/*.json"), *(folder / "record.json" for folder in folders)):
        try:
            yield record.read(path)
        except CourseError:
            continue  # a run that is not done, or one that `report --check` will name


def _by_earlier(exp: Experiment, earlier: Sequence[record.Record]) -> Estimate | None:
    here, wanted = hardware.machine_words(), exp.as_dict()
    for run in reversed(earlier):
        ran = run["experiment"]
        if run["sessions"][-1]["machine"] != here or any(ran.get(key) != wanted[key] for key in COST):
            continue
        times = [[row["seconds"] for row in run["history"] if row.get("stage", 1) == number]
                 for number in range(1, len(exp.stages) + 2)]
        if all(times):
            stages = [exp.stage(number) for number in range(len(exp.stages) + 1)]
            return Estimate(sum(stage.epochs * statistics.median(part) for stage, part in zip(stages, times)),
                            "an earlier run")
    return None


def _measured(exp: Experiment) -> Estimate:
    seconds = 0.0
    for number in range(len(exp.stages) + 1):
        stage = exp.stage(number)
        _, of_a_step, steps = first_steps(stage, STEPS)
        seconds += stage.epochs * steps * of_a_step
    return Estimate(seconds, f"{STEPS} steps")


def first_steps(exp: Experiment, steps: int, root: Path | None = None) -> tuple[list[float], float, int]:
    """Train for ``steps`` steps after a first one: losses of all, mean seconds of a step, steps of an epoch."""
    data = open_dataset(exp.dataset, root, exp.data, exp.seed, exp.train_images, exp.test_images)
    machine = hardware.choose_machine(exp.precision)
    batches = make_loaders(exp, data, machine.placement).train
    torch.manual_seed(exp.seed)
    peak = exp.lr or 0.001  # a range test would be part of the run, not of its first steps
    rates = optim.learning_rates(exp, peak, len(batches))
    model = build_model(exp.model, len(data.classes), data.train_images.shape[1], **exp.model_settings)
    step = train.make_step(exp, model, rates[0], machine)
    losses, begun = [], time.perf_counter()
    for x, y in itertools.islice(batches.epoch(1), steps + 1):
        losses.append(step(x, y))
        if len(losses) == 1:  # it fetches, compiles and allocates what the others find
            losses[0].item()
            begun = time.perf_counter()
    numbers = torch.stack(losses).tolist()  # waits for the device
    return numbers, (time.perf_counter() - begun) / max(1, len(losses) - 1), len(batches)


def forecast(names: Sequence[str], found: Sequence[Estimate], jobs: int) -> str:
    """Plain text: what each run and, ``jobs`` at a time, all together will take in training."""
    lines = [f"{name}: about {duration(one.seconds)} of training, by {one.source}" for name, one in zip(names, found)]
    whole = max(max(one.seconds for one in found), sum(one.seconds for one in found) / jobs)
    return "\n".join([*lines, f"Together about {duration(whole)}, {jobs} at a time."])


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
