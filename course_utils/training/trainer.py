"""The training loop: one epoch, a run with checkpoints, and a run of several stages."""
import contextlib
import copy
import itertools
import math
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from course_utils.config import Experiment, describe_differences, is_custom, locate_model
from course_utils.data.loader import BatchLoader, Loaders
from course_utils.errors import CourseError, DivergenceError, OutOfMemoryError
from course_utils.evaluation.metrics import predict
from course_utils.models.custom import error_with_source_line
from course_utils.models.summary import check_input_size
from course_utils.training import checkpoint
from course_utils.training.curves import curve_writer
from course_utils.training.device import format_memory
from course_utils.training.optim import make_optimizer, make_schedule
from course_utils.training.step import TrainStep

Log = Callable[[str], None]
LOSS_CHECK_STEPS = 100  # between two looks at the loss on a GPU, each of which waits for it; on a CPU every step
PAUSE_SECONDS = 10.0  # what takes longer, and 20 times as long as usual, is a pause: the process was stopped
DIVERGENCE_FACTOR = 2  # times the loss of random guessing, from the second epoch on


@dataclass
class Training:
    """The result of a training."""

    history: list[dict[str, float]] = field(default_factory=list)  # one row per epoch
    sessions: list[dict[str, Any]] = field(default_factory=list)  # one row for each time it was started or resumed
    best: dict[str, Any] | None = None  # epoch, val_accuracy and weights of the best epoch (select_epoch = "best")


def train_one_epoch(step: TrainStep, schedule: LRScheduler, loader: BatchLoader, epoch: int) -> dict[str, float]:
    """Train for one epoch of ``loader``; return its mean loss, accuracy, last learning rate, seconds without pauses."""
    torch.manual_seed(step.exp.seed * 1_000_003 + epoch)  # dropout: the same whether the run was resumed or not
    marks = [time.perf_counter()]
    totals = step.totals.zero_()  # loss x images, correct, images; read at the end of the epoch
    check_every = 1 if loader.device.type == "cpu" else LOSS_CHECK_STEPS
    step.model.train()
    with contextlib.closing(loader.epoch(epoch)) as batches:  # after an error the DataLoader workers end at once
        for number, (images, labels) in enumerate(batches, 1):
            lr = schedule.get_last_lr()[0]
            step(images, labels)  # forward pass, loss, backward pass, optimizer
            schedule.step()
            if number % check_every == 0 or number == len(loader):
                if not math.isfinite(totals[0].item()):
                    raise DivergenceError(f"The loss is NaN or infinite: epoch {epoch}, step {number}, learning rate "
                                          f"{lr:.1e}. Try a smaller learning rate.")
                marks.append(time.perf_counter())
    loss, correct, images = totals.tolist()
    return {"epoch": epoch, "lr": lr, "train_loss": loss / images, "train_accuracy": correct / images,
            "seconds": time_without_pauses(marks)}


def time_without_pauses(marks: Sequence[float]) -> float:
    """Seconds from the first mark to the last, with the usual interval in the place of one with a pause."""
    times = [after - before for before, after in itertools.pairwise(marks)]
    usual = statistics.median(times)
    return sum(usual if seconds > max(PAUSE_SECONDS, 20 * usual) else seconds for seconds in times)


def prepare_training(exp: Experiment, model: nn.Module, lr: float, device: torch.device) -> tuple[nn.Module, Optimizer]:
    """Model on ``device``, in training mode and ``memory_format_of``, and its optimizer with learning rate ``lr``."""
    model = model.to(device, memory_format=getattr(torch, memory_format_of(model)))
    model.train()
    return model, make_optimizer(exp, model, lr)


def memory_format_of(model: nn.Module) -> str:
    """"channels_last", or "contiguous_format" for a custom network that cannot be trained in that layout."""
    return "channels_last" if getattr(model, "takes_channels_last", True) else "contiguous_format"


def fit(exp: Experiment, model: nn.Module, train: BatchLoader, val: BatchLoader, lr: float, *, precision: str = "fp32",
        folder: Path | None = None, environment: Mapping[str, Any] | None = None, log: Log = print) -> Training:
    """Train ``model`` in place as ``exp`` says, on the device of ``train``, and log one line per epoch.

    ``lr``: learning rate, of a cycle its peak. After each epoch the images of ``val`` are scored, which choose nothing
    when they are the test images. ``folder``: of the checkpoints (``checkpoint.Pace`` says when), after the last of
    which an interrupted training resumes. ``environment``: machine and commit. Raises ``CourseError`` for images that
    the network cannot take and for a folder of another experiment, ``OutOfMemoryError``, and ``DivergenceError`` for a
    loss that is NaN, infinite or, after the first epoch, over ``DIVERGENCE_FACTOR`` times that of random guessing.
    """
    _check_inputs(exp, model, train, val)
    model, optimizer = prepare_training(exp, model, lr, train.device)
    schedule, step = make_schedule(exp, optimizer, len(train)), TrainStep(exp, model, optimizer, precision, log)
    pace, write_curves = checkpoint.Pace(), curve_writer(folder)
    done = _resume(exp, model, optimizer, schedule, lr, folder, train.sha256, log) if folder else Training()
    if not _is_finished(exp, done):
        session = {"from_epoch": len(done.history) + 1, "precision": precision, "device": train.device.type,
                   "memory_format": memory_format_of(model), **(environment or {})}
        _log_other_conditions(done, session, log)
        done.sessions.append(session)
    name, guessing = "val" if exp.holdout else "test", math.log(1 + int(train.labels.max()))
    while not _is_finished(exp, done):
        epoch = len(done.history) + 1
        with contextlib.ExitStack() as undo, readable_errors(exp, train.device):
            if epoch == 1:  # after an error or an interrupt the weights are as before; later there is a checkpoint
                undo.callback(model.load_state_dict, copy.deepcopy(model.state_dict()))
            row = train_one_epoch(step, schedule, train, epoch)
            prediction = predict(model, val, precision)
            undo.pop_all()
        row |= {f"{name}_loss": prediction.loss, f"{name}_accuracy": prediction.accuracy}
        done.history.append(row)
        log(_format_row(exp, row))
        if epoch > 1 and row["train_loss"] > DIVERGENCE_FACTOR * guessing:
            raise DivergenceError(f"The training loss of epoch {epoch} is {row['train_loss']:.3g}, random guessing has "
                                  f"{guessing:.3g}. The learning rate was {row['lr']:.1e}: try a smaller one.")
        if exp.select_epoch == "best" and epoch == best_epoch(done.history):
            done.best = {"epoch": epoch, "val_accuracy": row["val_accuracy"],
                         "model": {key: tensor.cpu().clone() for key, tensor in model.state_dict().items()}}
        if folder and (pace.is_due() or _is_finished(exp, done)):
            pace.measure(checkpoint.save_checkpoint, folder, epoch, {
                "experiment": exp.as_dict(), "lr": lr, "data": train.sha256, "model": model.state_dict(),
                "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), **vars(done)})
        if folder:
            checkpoint.write_progress(folder, done.history)
            write_curves(row)
    if done.best:
        model.load_state_dict(done.best["model"])
    return done


def _check_inputs(exp: Experiment, model: nn.Module, train: BatchLoader, val: BatchLoader) -> None:
    if exp.stages:
        raise CourseError("This training has one stage: leave out the setting `stages`, or call fit_stages.")
    for loader in (train, val):
        check_input_size(model, loader.image_size)


def fit_stages(exp: Experiment, model: nn.Module, loaders_of: Callable[[Experiment], Loaders], lr: float, *,
               folder: Path | None = None, log: Log = print, **settings: Any) -> Training:
    """Train stage after stage on the same weights, each with its own loaders (``loaders_of``), optimizer, schedule and
    checkpoints. ``lr``: of the first; ``settings``: of ``fit``. Epochs are counted through; each row names its stage.
    """
    result = Training()
    for number, stage in enumerate(exp.all_stages, 1):
        loaders = loaders_of(stage)
        if exp.stages:
            log(f"Stage {number} of {len(exp.stages) + 1}: {stage.epochs} epochs of {len(loaders.train)} steps")
        stage_lr = lr if number == 1 or stage.lr is None else stage.lr
        stage_folder = folder / f"stage{number}" if folder and number > 1 else folder
        part = fit(stage, model, loaders.train, loaders.val, stage_lr, folder=stage_folder, log=log, **settings)
        before, mark = len(result.history), {"stage": number} if exp.stages else {}
        result.history += [row | mark | {"epoch": row["epoch"] + before} for row in part.history]
        result.sessions += [row | mark | {"from_epoch": row["from_epoch"] + before} for row in part.sessions]
        result.best = part.best and part.best | {"epoch": part.best["epoch"] + before}
    return result


@contextlib.contextmanager
def readable_errors(exp: Experiment, device: torch.device) -> Iterator[None]:
    """Re-raise memory errors, lost DataLoader workers and errors in a custom network with a readable message."""
    try:
        yield
    except Exception as error:
        first = str(error).partition("\n")[0]
        if first.startswith(("DataLoader worker", "DataLoader timed out")):
            raise CourseError(f"A DataLoader worker was killed or hangs ({first}): out of memory? The checkpoints are "
                              "intact: run again, perhaps with fewer workers; the result is the same.") from error
        if isinstance(error, MemoryError) or re.search("out of memory|can't allocate|not enough memory", str(error)):
            raise OutOfMemoryError(f"A step with {exp.batch_size} images does not fit into {format_memory(device)}: "
                                   f"use a smaller batch_size (it is another experiment then). {first}") from error
        if is_custom(exp.model) and (report := error_with_source_line(locate_model(exp.model)[0], error)):
            raise report from None
        raise


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The first epoch, counted from 1, with the highest validation accuracy."""
    return 1 + max(range(len(history)), key=lambda k: history[k]["val_accuracy"])


def _resume(exp: Experiment, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, lr: float, folder: Path,
            data: str, log: Log) -> Training:
    """Load the last checkpoint of ``folder``, if there is one. Raises ``CourseError`` for one of another experiment or
    of other training images than those with the SHA-256 ``data``.
    """
    state = checkpoint.load_latest(folder, log)
    if state is None:
        return Training()
    found = state.get("experiment", {}) | {"lr": state.get("lr")}
    if differences := describe_differences(exp.as_dict() | {"lr": lr}, found):
        raise CourseError(f"{folder} holds the checkpoint of another experiment. Choose another OUTPUT_DIR (--output) "
                          "or delete it (--restart). Differences:\n  " + "\n  ".join(differences))
    if state.get("data", data) != data:
        raise CourseError(f"{folder} holds the checkpoint of a training on other images. Choose another OUTPUT_DIR "
                          "(--output) or delete it (--restart).")
    try:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done = Training(state["history"], state["sessions"], state["best"])
    except (LookupError, TypeError, RuntimeError, ValueError) as error:
        raise CourseError(f"The checkpoint in {folder} is incomplete or of another network ({error!r}): delete it "
                          "(--restart).") from error
    log("\n".join([f"Resumed after epoch {len(done.history)} of {exp.epochs}. So far:",
                   *(_format_row(exp, row) for row in done.history)]))
    return done


def _log_other_conditions(done: Training, now: Mapping[str, Any], log: Log) -> None:
    """Log what differs from the last session: the numbers are then not those of an uninterrupted run."""
    before = done.sessions[-1] if done.sessions else now
    differ = [f"{name} {before[name]} -> {now[name]}" for name in ("machine", "threads", "precision", "versions")
              if name in before and name in now and before[name] != now[name]]
    if differ:
        log("Resumed under other conditions, so the numbers differ slightly from those of an uninterrupted run: "
            + "; ".join(differ))


def _is_finished(exp: Experiment, done: Training) -> bool:
    epochs = len(done.history)
    stopped = exp.patience is not None and epochs > 0 and epochs - best_epoch(done.history) >= exp.patience
    return stopped or epochs >= exp.epochs


def _format_row(exp: Experiment, row: Mapping[str, float]) -> str:
    name = "val" if exp.holdout else "test"
    return (f"epoch {row['epoch']:>3}/{exp.epochs}  train loss {row['train_loss']:.4f}  "
            f"accuracy {row['train_accuracy']:.2%}  {name} loss {row[f'{name}_loss']:.4f}  "
            f"accuracy {row[f'{name}_accuracy']:.2%}  {row['seconds']:.1f} s")
