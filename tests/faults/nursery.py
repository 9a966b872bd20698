"""Raises small trainings, each in a process of its own that may be killed at any moment.

Read from standard input, a JSON line each: ``{"folder": ..., "workers": 0}`` begins one and answers its process number;
``{"wait": number}`` answers how it ended (exit code, or minus the signal), ``{"ready": true}`` 0. ``{"folder": ...,
"task": "save"}`` begins a process that writes checkpoints for ever. It imports torch once and forks: what was asked for
is at work a few milliseconds later.
"""
from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from course_utils import anatomy, checkpoint, evaluate, hardware, record, train
from course_utils.datasets import open_dataset
from course_utils.experiment import load
from course_utils.loader import make_loaders
from course_utils.models import build_model

EPOCHS = 3
TIMES = ("seconds", "sessions", "evaluated", "sha256")  # of a record: what may differ between two equal runs


def run(folder: str, workers: int = 0, seed: int = 0, engine: str = "albumentations", lr: float = 0.002) -> None:
    """Train LeNet on 258 drawn signs, as a notebook would, and leave its record and the digest of its weights."""
    torch.set_num_threads(1)
    home = Path(folder)
    exp = load("gtsrb_stn", "lenet", "smoke", epochs=EPOCHS, train_images=258, test_images=86, engine=engine, seed=seed,
               lr=lr)
    data = open_dataset(exp.dataset, None, exp.data, exp.seed, exp.train_images, exp.test_images)
    machine = hardware.choose_machine("fp32")
    loaders = make_loaders(exp, data, machine.placement, workers)
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes), **exp.model_settings)
    training = train.fit(exp, model, loaders.train, loaders.watch, exp.lr, machine, folder=home, say=say)
    prediction = evaluate.predict(model, loaders.test)
    weights = b"".join(tensor.numpy().tobytes() for tensor in model.state_dict().values())
    (home / "weights.txt").write_text(hashlib.sha256(weights).hexdigest())
    record.write(record.make(exp, data, exp.lr, anatomy.count_parameters(model), training, prediction, machine,
                             evaluate.predict(model, loaders.held)), home)


def save(folder: str) -> None:
    """Write one checkpoint after another, of 2 MB, until somebody ends it."""
    for epoch in range(1, 10_000):
        checkpoint.save(Path(folder), epoch, {"model": torch.full((500_000,), float(epoch)), "epoch": epoch})


def say(text: str) -> None:
    """Trainings of the nursery say nothing on its standard output, which is for answers."""
    print(text, file=sys.stderr, flush=True)


def outcome(folder: Path) -> dict[str, Any]:
    """All that two equal runs share, to the last bit: the record without its times, and the digest of the weights."""
    found = record.read(folder / "record.json")
    for row in found["history"]:
        row.pop("seconds")
    kept = {key: value for key, value in found.items() if key not in TIMES}
    return kept | {"weights": (folder / "weights.txt").read_text()}


TASKS = {"run": run, "save": save}


def main() -> None:
    """Until standard input ends."""
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
