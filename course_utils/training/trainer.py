"""Training, epoch after epoch: `fit`, and `fit_stages`. Accelerate carries device, precision and several processes."""
from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from course_utils.runner import status
from course_utils.training import checkpoint
from course_utils.models.summary import require_side
from course_utils.errors import CourseError, Diverged
from course_utils.evaluation.metrics import predict
from course_utils.config import Experiment, differences
from course_utils.training.device import Machine
from course_utils.data.loader import Batches, Loaders
from course_utils.training.optim import make_schedule
from course_utils.training.step import make_ready, plainly, take_step

Say = Callable[[str], None]
LOOK = 100  # steps between two looks at the loss on a GPU, which has to be waited for; a CPU's is there at every step
CHECKPOINT = {"experiment", "lr", "model", "optimizer", "schedule", "history", "sessions", "best"}  # its parts
HOPELESS = 2  # times the loss of blind guessing, from the second epoch on: the training has diverged


@dataclass
class Training:
    """How a training went."""

    history: list[dict[str, float]] = field(default_factory=list)  # one row an epoch
    sessions: list[dict[str, Any]] = field(default_factory=list)  # one row for each time it was started or resumed
    best: dict[str, Any] | None = None  # epoch, val_accuracy and weights of the best epoch, with keep = "best"


def fit(exp: Experiment, model: nn.Module, train: Batches, watch: Batches, lr: float, machine: Machine, *,
        folder: Path | None = None, origin: Mapping[str, Any] | None = None, say: Say = print) -> Training:
    """Train ``model`` in place as ``exp`` says, with learning rate ``lr`` (a cycle's peak); one line an epoch.

    After each epoch the plain images of ``watch`` are scored: the held-out ones when the experiment holds some out,
    else the test images, which then choose nothing. With a ``folder``, every epoch leaves a checkpoint there, and a
    training that was cut goes on after its last whole epoch. ``origin`` says where this happens, for the record.

    Raises ``CourseError`` when the network cannot take images of that size or the folder holds another experiment;
    ``Diverged`` when the loss is no longer a number, or after the first epoch over ``HOPELESS`` times that of blind
    guessing: the last checkpoint is then from before; ``NoMemory`` when a step does not fit.
    """
    say = say if machine.accelerator.is_main_process else _silent
    unwrapped = model
    for batches in (train, watch):
        require_side(model, batches.side)
    model, optimizer = make_ready(exp, model, lr, machine)
    schedule = make_schedule(exp, optimizer, len(train))
    done = Training()
    state = checkpoint.latest(folder, say) if folder else None
    if state is not None:
        _check_same(exp, lr, state, folder)
        unwrapped.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        done = Training(state["history"], state["sessions"], state["best"])
        say("\n".join([f"Resumed after epoch {len(done.history)} of {exp.epochs}. So far:",
                       *(_line(exp, row) for row in done.history)]))
    if not _finished(exp, done):
        done.sessions.append({"from_epoch": len(done.history) + 1, "precision": machine.precision,
                              "device": machine.device.type, **(origin or {})})
    while not _finished(exp, done):
        with plainly(exp, machine):
            row = _epoch(exp, model, optimizer, schedule, train, len(done.history) + 1, machine)
            row |= _watch(exp, unwrapped, watch, machine)
        done.history.append(row)
        say(_line(exp, row))
        _check_hopeful(row, math.log(1 + int(train.labels.max())))
        if exp.keep == "best" and (done.best is None or row["val_accuracy"] > done.best["val_accuracy"]):
            weights = {name: tensor.detach().cpu().clone() for name, tensor in unwrapped.state_dict().items()}
            done.best = {"epoch": row["epoch"], "val_accuracy": row["val_accuracy"], "model": weights}
        if folder and machine.accelerator.is_main_process:
            checkpoint.save(folder, row["epoch"], {
                "experiment": exp.as_dict(), "lr": lr, "model": unwrapped.state_dict(),
                "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(), **dataclasses.asdict(done)})
            status.note_progress(folder, done.history)
    if done.best:
        unwrapped.load_state_dict(done.best["model"])
    machine.accelerator.unwrap_model(model, keep_fp32_wrapper=False)
    machine.accelerator.free_memory()
    return done


def fit_stages(exp: Experiment, model: nn.Module, loaders_of: Callable[[Experiment], Loaders], lr: float,
               machine: Machine, *, folder: Path | None = None, origin: Mapping[str, Any] | None = None,
               say: Say = print) -> Training:
    """Train stage after stage on the same weights; each has its own loaders, optimiser, schedule and checkpoints.

    ``loaders_of`` makes the loaders of a stage, ``lr`` is the first stage's rate. Epochs are counted through, and each
    row of the history names its stage. With one stage it is ``fit``.
    """
    whole = Training()
    say = say if machine.accelerator.is_main_process else _silent
    for number, stage in enumerate(exp.all_stages):
        loaders = loaders_of(stage)
        if exp.stages:
            say(f"Stage {number + 1} of {len(exp.stages) + 1}: {len(loaders.train)} steps an epoch, epochs: "
                f"{stage.epochs}")
        rate = lr if number == 0 or stage.lr is None else stage.lr
        home = folder / f"stage{number + 1}" if folder and number else folder
        part = fit(stage, model, loaders.train, loaders.watch, rate, machine, folder=home, origin=origin, say=say)
        before, mark = len(whole.history), {"stage": number + 1} if exp.stages else {}
        whole.history += [row | mark | {"epoch": row["epoch"] + before} for row in part.history]
        whole.sessions += [session | mark | {"from_epoch": session["from_epoch"] + before} for session in part.sessions]
        whole.best = part.best and part.best | {"epoch": part.best["epoch"] + before}
    return whole


def _silent(_: str) -> None:
    """Says nothing: what the other processes say."""


def _finished(exp: Experiment, done: Training) -> bool:
    if exp.patience is not None and done.history and len(done.history) - best_epoch(done.history) >= exp.patience:
        return True
    return len(done.history) >= exp.epochs


def best_epoch(history: Sequence[Mapping[str, float]]) -> int:
    """The first epoch, counted from 1, with the highest validation accuracy."""
    return 1 + max(range(len(history)), key=lambda k: history[k]["val_accuracy"])


def _check_same(exp: Experiment, lr: float, state: Mapping[str, Any], folder: Path | None) -> None:
    if lacking := CHECKPOINT - state.keys():
        raise CourseError(f"{folder} holds a checkpoint of something else than a training: it lacks "
                          f"{', '.join(sorted(lacking))}. Choose another OUTPUT_DIR (--output).")
    differ = differences(exp.as_dict() | {"lr": lr}, state["experiment"] | {"lr": state["lr"]})
    if differ:
        raise CourseError(f"{folder} holds the checkpoint of another experiment. Choose another OUTPUT_DIR (--output) "
                          "or delete it (--again). What differs:\n  " + "\n  ".join(differ))


def _epoch(exp: Experiment, model: nn.Module, optimizer: Optimizer, schedule: LRScheduler, train: Batches, epoch: int,
           machine: Machine) -> dict[str, float]:
    """One pass over the training images; everything stays on the device until its end."""
    # Dropout: the same whether this epoch was resumed or not, another in each process.
    torch.manual_seed(exp.seed * 1_000_003 + epoch + 1_000 * machine.accelerator.process_index)
    begun = time.perf_counter()
    totals = torch.zeros(3, device=machine.device)  # loss x images, right, images (float32: not every GPU has more)
    often = 1 if machine.device.type == "cpu" else LOOK
    model.train()
    with contextlib.closing(train.epoch(epoch)) as batches:  # an error in a step ends the loader's workers at once
        for number, (x, y) in enumerate(batches, 1):
            rate = schedule.get_last_lr()[0]
            loss, right = take_step(exp, model, optimizer, x, y, machine)
            schedule.step()
            totals += torch.stack([loss * len(y), right, torch.ones_like(loss) * len(y)])
            if (number % often == 0 or number == len(train)) and not math.isfinite(totals[0].item()):
                before = f" or the {often - 1} before it" if often > 1 else ""
                raise Diverged(f"The loss is no longer a number: epoch {epoch}, step {number}{before}, rate "
                               f"{rate:.1e}. Try a smaller learning rate.")
    loss, right, images = machine.accelerator.reduce(totals).tolist()
    return {"epoch": epoch, "lr": rate, "train_loss": loss / images,
            "train_accuracy": right / images, "seconds": time.perf_counter() - begun}


def _check_hopeful(row: Mapping[str, float], blind: float) -> None:
    if row["epoch"] > 1 and row["train_loss"] > HOPELESS * blind:
        raise Diverged(f"The training loss of epoch {row['epoch']} is {row['train_loss']:.3g}, where blind guessing "
                       f"costs {blind:.3g}; the rate was {row['lr']:.1e}: try a smaller one.")


def _watch(exp: Experiment, model: nn.Module, watch: Batches, machine: Machine) -> dict[str, float]:
    prediction = predict(model, watch, machine.precision)
    name = "val" if exp.holdout else "test"
    row = [{f"{name}_loss": prediction.loss, f"{name}_accuracy": prediction.accuracy}]
    return broadcast_object_list(row)[0]  # batch norm's statistics are a process's own; the first one's count


def _line(exp: Experiment, row: Mapping[str, float]) -> str:
    name = "val" if exp.holdout else "test"
    return (f"epoch {row['epoch']:>3}/{exp.epochs}  train loss {row['train_loss']:.4f}  "
            f"accuracy {row['train_accuracy']:.2%}  {name} loss {row[f'{name}_loss']:.4f}  "
            f"accuracy {row[f'{name}_accuracy']:.2%}  {row['seconds']:.1f} s")
