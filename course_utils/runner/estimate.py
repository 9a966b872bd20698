"""How long runs will take: by earlier runs on a like machine, else by a few measured steps."""
from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from course_utils.reporting import record
from course_utils.training import device as hardware, optim
from course_utils.data.datasets import open_dataset
from course_utils.errors import CourseError
from course_utils.config import ASSIGNMENTS, Experiment
from course_utils.data.loader import make_loaders
from course_utils.models import build_model
from course_utils.training.step import make_step

STEPS = 3  # measured, after one that warms up
PATIENCE = 120  # seconds for these
COST = ("assignment", "variant", "model", "model_file", "data", "train_images", "engine")  # what an epoch's time is of


@dataclass(frozen=True)
class Estimate:
    """Of one run."""

    seconds: float | None  # of training, all its epochs, evaluation after each apart; None: it could not be told
    source: str  # what it is judged by


NOT_KNOWN = Estimate(None, "")


def estimates(experiments: Sequence[Experiment], folders: Sequence[Path]) -> list[Estimate]:
    """One for each; ``folders`` may hold earlier runs besides the published ones.

    What nothing is known of is measured in a process of its own, which leaves no memory taken on a GPU and may fail:
    then nothing is known. Raises ``CourseError`` where a run could not even begin: no data, a network that cannot be
    built.
    """
    for name in sorted({exp.dataset for exp in experiments if exp.data == "real"}):
        open_dataset(name)
    earlier = list(_records(folders))
    known = [_by_earlier(exp, earlier) for exp in experiments]
    measured = iter(_measure([exp for exp, found in zip(experiments, known) if found is None]))
    return [found or next(measured) for found in known]


def _measure(experiments: Sequence[Experiment]) -> list[Estimate]:
    found: list[Estimate] = []
    if experiments:
        context = get_context("spawn")
        answers, end = context.Pipe(duplex=False)
        worker = context.Process(target=_work, args=(experiments, end), daemon=True)
        worker.start()
        end.close()  # so that a worker that dies is noticed
        try:
            while len(found) < len(experiments) and answers.poll(PATIENCE):
                answer = answers.recv()
                if isinstance(answer, CourseError):
                    raise answer
                found.append(answer)
        except EOFError:
            pass
        finally:
            worker.kill()
    return found + [NOT_KNOWN] * (len(experiments) - len(found))


def _work(experiments: Sequence[Experiment], answers: Connection) -> None:
    for exp in experiments:
        try:
            answers.send(_measured(exp))
        except CourseError as error:
            answers.send(CourseError(str(error)))
        except Exception:  # no memory, a fault in a network of one's own: the run itself will say so
            answers.send(NOT_KNOWN)


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
            return Estimate(sum(stage.epochs * statistics.median(part) for stage, part in zip(exp.all_stages, times)),
                            "an earlier run")
    return None


def _measured(exp: Experiment) -> Estimate:
    seconds = 0.0
    for stage in exp.all_stages:
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
    step = make_step(exp, model, rates[0], machine)
    losses, begun = [], time.perf_counter()
    for x, y in itertools.islice(batches.epoch(1), steps + 1):
        losses.append(step(x, y))
        if len(losses) == 1:  # it fetches, compiles and allocates what the others find
            losses[0].item()
            begun = time.perf_counter()
    numbers = torch.stack(losses).tolist()  # waits for the device
    return numbers, (time.perf_counter() - begun) / max(1, len(losses) - 1), len(batches)


def forecast(names: Sequence[str], found: Sequence[Estimate], gpus: int) -> str:
    """Plain text: what each run and all together will take in training, one a GPU at a time. Runs that share out the
    cores of a processor take together what they take one after another.
    """
    lines = [f"{name}: about {duration(one.seconds)} of training, by {one.source}" if one.seconds is not None
             else f"{name}: no telling how long" for name, one in zip(names, found)]
    known = [one.seconds for one in found if one.seconds is not None]
    if known and len(found) > 1:
        lines.append(f"Together about {duration(max([*known, sum(known) / max(1, gpus)]))}.")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """As people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
