"""Raises small trainings, each in a process of its own that may be killed at any moment, or meets with a harm.

Read from standard input, a JSON line each: ``{"folder": ..., "workers": 0}`` begins one and answers its process number;
``{"wait": number}`` answers how it ended (exit code, or minus the signal), ``{"ready": true}`` 0. ``{"folder": ...,
"task": "save"}`` begins another of ``TASKS``. It imports torch once and forks: what was asked for is at work a few
milliseconds later. What a training says, and the error it ends with, stands in ``folder/log``.
"""
from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from course_utils.data import loader, prepare as acquire
from course_utils.evaluation import metrics as evaluate
from course_utils.models import summary as anatomy
from course_utils.reporting import record
from course_utils.training import checkpoint, device as hardware, trainer as train
from course_utils.augment.pipeline import albumentations_pipeline
from course_utils.data.datasets import open_dataset
from course_utils.variants import load_experiment
from course_utils.data.loader import make_loaders
from course_utils.models import build_model

EPOCHS = 3
TIMES = ("seconds", "sessions", "evaluated", "sha256")  # of a record: what may differ between two equal runs
NOBODY = 65534  # the user that owns nothing


def run(folder: str, workers: int = 0, seed: int = 0, lr: float = 0.002, harm: str = "", patience: int = 120) -> None:
    """Train LeNet on 258 drawn signs, as a notebook would, and leave its record and the digest of its weights.

    ``harm``: one of ``HARMS``, met in the third step of epoch 2; ``patience``: seconds that a worker may be silent.
    """
    torch.set_num_threads(1)
    loader.WORKER_TIMEOUT = patience
    exp = load_experiment("gtsrb_stn", "lenet", "smoke", epochs=EPOCHS, train_images=258, test_images=86, engine="albumentations",
               seed=seed, lr=lr).replace(profile="full")  # a smoke run would begin anew
    home = record.run_folder(exp, folder)
    data = open_dataset(exp.dataset, None, exp.data, exp.seed, exp.train_images, exp.test_images)
    machine = hardware.select_device("fp32")
    loaders = make_loaders(exp, data, machine.placement, workers)
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes), **exp.model_settings)
    if harm:
        _meet(model, HARMS[harm], len(loaders.train) + 3)
    training = train.fit(exp, model, loaders.train, loaders.val, exp.lr, machine, folder=home,
                         origin=record.origin(), log=say)
    prediction = evaluate.predict(model, loaders.test)
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    (home / "weights.txt").write_text(hashlib.sha256(weights).hexdigest())
    record.write(record.make(exp, data, exp.lr, anatomy.count_parameters(model), training, prediction, machine,
                             evaluate.predict(model, loaders.val_plain)), home)


def _meet(model: nn.Module, harm: Callable[[Tensor], Tensor], first: int) -> None:
    """From training step ``first`` on, the network's outputs pass through ``harm``."""
    steps = 0

    def hook(module: nn.Module, _: Any, out: Tensor) -> Tensor:
        nonlocal steps
        steps += module.training
        return harm(out) if module.training and steps >= first else out

    model.register_forward_hook(hook)


def _want_memory(out: Tensor) -> Tensor:
    """As a network that wants 4 GB a picture, where no more is to be had than is in use."""
    limit = psutil.Process().memory_info().vms
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return out + out.new_ones(len(out), 10**9).mean()


def _fill_disk(out: Tensor) -> Tensor:
    """From now on no file can grow beyond 5 kB: to the process, a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (5_000, 5_000))
    return out


def _slow(out: Tensor) -> Tensor:
    time.sleep(0.2)
    return out


HARMS = {"nan": lambda out: out * float("nan"), "far": lambda out: out * 1e4, "memory": _want_memory,
         "disk": _fill_disk, "slow": _slow}


def run_on_full_disk(folder: str) -> None:
    _fill_disk(torch.empty(0))
    run(folder)


def run_as_nobody(folder: str) -> None:
    """Root may write everywhere."""
    if os.getuid() == 0:
        os.setuid(NOBODY)
    run(folder)


def save(folder: str) -> None:
    """Write one checkpoint after another, of 2 MB, until somebody ends it."""
    for epoch in range(1, 10_000):
        checkpoint.save(Path(folder), epoch, {"model": torch.full((500_000,), float(epoch)), "epoch": epoch})


def prepare(folder: str, images: dict[str, int]) -> None:
    """Prepare CIFAR-10, of so many ``images`` a split, from what lies unpacked in ``folder``."""
    import dataclasses

    source = acquire.SOURCES["cifar10"]
    acquire.SOURCES["cifar10"] = dataclasses.replace(source, counts=images)
    acquire.prepare("cifar10", folder, say)


def say(text: str) -> None:
    """Trainings of the nursery say nothing on its standard output, which is for answers."""
    print(text, file=sys.stderr, flush=True)


def home_of(folder: Path) -> Path:
    """The run's own folder in ``folder``."""
    return next(folder.glob("lenet-*"))


def outcome(folder: Path) -> dict[str, Any]:
    """All that two equal runs share, to the last bit: the record without its times, and the digest of the weights."""
    found = record.read(home_of(folder) / "record.json")
    for row in found["history"]:
        row.pop("seconds")
    kept = {key: value for key, value in found.items() if key not in TIMES}
    return kept | {"weights": (home_of(folder) / "weights.txt").read_text()}


TASKS = {task.__name__: task for task in (run, run_on_full_disk, run_as_nobody, save, prepare)}


def main() -> None:
    """Until standard input ends. What a training imports on its way is imported here, once for all."""
    torch.optim.Adam([torch.zeros(1)])
    albumentations_pipeline((), (0.5,) * 3, (0.5,) * 3)
    for line in sys.stdin:
        order = json.loads(line)
        if "ready" in order:
            answer = 0
        elif "wait" in order:
            _, status = os.waitpid(order["wait"], 0)
            answer = os.waitstatus_to_exitcode(status)
        else:
            answer = os.fork()
            if answer == 0:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                _child(order)
        print(answer, flush=True)


def _child(order: dict[str, Any]) -> None:
    code = 1
    try:
        os.setsid()
        sys.stderr = open(Path(order["folder"]) / "log", "a", buffering=1)  # noqa: SIM115 (until the process ends)
        TASKS[order.pop("task", "run")](**order)
        code = 0
    except KeyboardInterrupt:
        code = 130
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
