"""The LR range test: a few steps at growing rates, to see at which one the loss turns."""
from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from course_utils.errors import CourseError
from course_utils.config import Experiment
from course_utils.utils import write_whole
from course_utils.training.device import Machine
from course_utils.data.loader import Batches
from course_utils.training.step import make_ready, plainly, take_step

SETTLED = 5  # steps of a range test after which its smoothed loss is a mean of several batches: 1 / (1 - 0.8)


@dataclass(frozen=True)
class RangeTest:
    """What an LR range test saw."""

    lrs: list[float]  # learning rate of each step, growing exponentially
    losses: list[float]  # smoothed training loss after each, nats

    @property
    def suggestion(self) -> float | None:
        """Half a decade below the rate at which the smoothed loss was lowest; ``None`` when it only rose.

        There the loss still falls for sure; at the lowest point itself it is about to turn. The steepest fall, which
        some tools suggest, is of no use here: a fresh network is confidently wrong, and unlearning that gives the
        steepest fall of all at rates far too small to train with. The first losses, means of one or a few batches, do
        not count: by chance one of them is often the lowest.
        """
        bottom = min(range(SETTLED, len(self.losses)), key=self.losses.__getitem__, default=SETTLED)
        fell = bottom > SETTLED and math.isfinite(self.losses[bottom])
        return self.lrs[bottom] / math.sqrt(10) if fell else None


def choose_rate(exp: Experiment, found: RangeTest) -> float:
    """The experiment's own rate, else the suggestion of its range test. Raises ``CourseError`` without either."""
    rate = exp.lr or found.suggestion
    if rate is None:
        raise CourseError("The LR range test saw no falling loss: the first rate is too large, the data wrong, or the "
                          "batches too small to tell. Choose a rate yourself: LR in the notebook, or --set lr=0.01.")
    return rate


RANGE_CONDITIONS = ("dataset", "data", "train_images", "holdout", "split", "seed", "model", "model_settings",
                    "model_file", "augmentation", "expansion", "engine", "batch_size", "optimizer", "momentum",
                    "weight_decay", "label_smoothing", "l1", "precision",
                    "range_test_steps")  # what a range test depends on


def lr_range_test(exp: Experiment, model: nn.Module, batches: Batches, machine: Machine, *, folder: Path | None = None,
                  low: float = 1e-5, high: float = 1.0, smoothing: float = 0.8) -> RangeTest:
    """Train a copy of ``model`` with rates growing from ``low`` to ``high`` and watch the loss.

    After Smith (2015, arXiv:1506.01186); the exponential growth and the look at the loss are fastai's. Takes
    ``exp.range_test_steps`` steps, fewer when the loss leaves for four times its best. The loss is smoothed by an
    exponential mean that forgets a share ``1 - smoothing`` a step. ``model`` is not touched. With a ``folder`` the
    result is kept there, so that a resumed run trains with the rate it began with.
    """
    conditions = {name: exp.as_dict()[name] for name in RANGE_CONDITIONS}
    kept = _kept_range_test(folder, conditions)
    if kept:
        return kept
    model, optimizer = make_ready(exp, copy.deepcopy(model), low, machine)
    growth = (high / low) ** (1 / (exp.range_test_steps - 1))
    lrs, losses, mean = [], [], 0.0
    torch.manual_seed(exp.seed)
    with plainly(exp, machine), contextlib.closing(_cycle(batches, exp.range_test_steps)) as drawn:
        for x, y in drawn:
            for group in optimizer.param_groups:
                group["lr"] = low * growth ** len(lrs)
            loss, _ = take_step(exp, model, optimizer, x, y, machine)
            mean = smoothing * mean + (1 - smoothing) * machine.accelerator.reduce(loss, "mean").item()
            lrs.append(optimizer.param_groups[0]["lr"])
            losses.append(mean / (1 - smoothing ** len(lrs)))
            if not losses[-1] < 4 * min(losses):
                break
    machine.accelerator.free_memory()
    result = RangeTest(lrs, losses)
    if folder and machine.accelerator.is_main_process:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / "lr_range.json", json.dumps(dataclasses.asdict(result) | {"conditions": conditions}))
    return result


def _kept_range_test(folder: Path | None, conditions: Mapping[str, Any]) -> RangeTest | None:
    """An earlier range test under the same conditions, if ``folder`` holds one that can be read."""
    try:
        table = json.loads((folder / "lr_range.json").read_text(encoding="utf-8")) if folder else {}
        lrs, losses = table["lrs"], table["losses"]
        whole = len(lrs) == len(losses) > 0 and all(isinstance(number, float) for number in (*lrs, *losses))
        return RangeTest(lrs, losses) if whole and table.get("conditions") == conditions else None
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _cycle(batches: Batches, steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    epoch = 0
    while steps > 0:
        for batch in batches.epoch(epoch):
            if steps == 0:
                return
            yield batch
            steps -= 1
        epoch += 1
