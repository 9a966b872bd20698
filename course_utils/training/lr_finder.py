"""The LR range test (Smith 2015, arXiv:1506.01186): at which learning rate the loss stops falling."""
import contextlib
import copy
import dataclasses
import itertools
import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from course_utils.config import Experiment
from course_utils.data.loader import BatchLoader
from course_utils.errors import CourseError
from course_utils.training.step import TrainStep
from course_utils.training.trainer import prepare_training, readable_errors
from course_utils.utils import atomic_write

SMOOTHING = 0.8  # weight of the past in the exponential mean of the loss
WARM_UP = 5  # steps after which that is a mean of several batches: 1 / (1 - SMOOTHING)


@dataclass(frozen=True)
class LRFinderResult:
    """What an LR range test measured."""

    lrs: list[float]  # learning rate of each step, growing exponentially
    losses: list[float]  # smoothed training loss after each, nats

    @property
    def suggestion(self) -> float | None:
        """Half a decade below the rate of the lowest smoothed loss; ``None`` when the loss only rose.

        At the lowest the loss is about to rise. The steepest descent, which some tools suggest, is where a new network
        unlearns confident mistakes, at far too small rates. The first losses, means of few batches, do not count.
        """
        lowest = min(range(WARM_UP, len(self.losses)), key=self.losses.__getitem__, default=WARM_UP)
        fell = lowest > WARM_UP and math.isfinite(self.losses[lowest])
        return self.lrs[lowest] / math.sqrt(10) if fell else None


def choose_lr(exp: Experiment, result: LRFinderResult) -> float:
    """The experiment's own rate, else the suggestion of its range test. Raises ``CourseError`` without either."""
    rate = exp.lr or result.suggestion
    if rate is None:
        raise CourseError("The loss did not fall in the LR range test: the first rate is too large, the data is wrong, "
                          "or the batches are too small. Choose a rate yourself: LR in the notebook, or --set lr=0.01.")
    return rate


def find_lr(exp: Experiment, model: nn.Module, batches: BatchLoader, *, precision: str = "fp32",
            folder: Path | None = None, low: float = 1e-5, high: float = 1.0) -> LRFinderResult:
    """Train ``model`` for ``exp.lr_finder_steps`` steps of growing rates, or until the loss exceeds four times its
    minimum; then set its weights back. The result is kept in ``folder``: a resumed run must have the same rate.
    """
    kept = folder and folder / "lr_range.json"
    if kept and (result := _load_result(kept, exp, batches)):
        return result
    model, optimizer = prepare_training(exp, model, low, batches.device)
    growth = (high / low) ** (1 / (exp.lr_finder_steps - 1))
    step = TrainStep(exp, model, optimizer, precision)
    step.record = None  # so few steps are over before a graph is recorded
    lrs, losses, mean = [], [], 0.0
    torch.manual_seed(exp.seed)
    endless = itertools.chain.from_iterable(map(batches.epoch, itertools.count()))
    with contextlib.ExitStack() as undo, readable_errors(exp, batches.device):
        undo.callback(model.zero_grad)
        undo.callback(model.load_state_dict, copy.deepcopy(model.state_dict()))  # after an error or interrupt as well
        for images, labels in itertools.islice(endless, exp.lr_finder_steps):
            lrs.append(low * growth ** len(lrs))
            for group in optimizer.param_groups:
                group["lr"] = lrs[-1]
            mean = SMOOTHING * mean + (1 - SMOOTHING) * step(images, labels).item()
            losses.append(mean / (1 - SMOOTHING ** len(lrs)))
            if not losses[-1] < 4 * min(losses):
                break
    result = LRFinderResult(lrs, losses)
    if kept:
        folder.mkdir(parents=True, exist_ok=True)
        atomic_write(kept, json.dumps(
            dataclasses.asdict(result) | {"experiment": exp.as_dict(), "data": batches.sha256}))
    return result


def _load_result(path: Path, exp: Experiment, batches: BatchLoader) -> LRFinderResult | None:
    """An earlier result of the same experiment on the same images, if ``path`` is a readable one."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        result = LRFinderResult(*([float(number) for number in table[name]] for name in ("lrs", "losses")))
        same = table["experiment"] == exp.as_dict() and table.get("data", batches.sha256) == batches.sha256
        return result if same and len(result.lrs) == len(result.losses) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
