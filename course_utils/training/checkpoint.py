"""Checkpoints: written atomically, checked by SHA-256 before they are used, loaded as plain data.

``epoch-0007-3f2a9c....pt``: number of epochs, and the first digits of the file's SHA-256. One rename publishes both.
"""
import contextlib
import hashlib
import io
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from course_utils.errors import CourseError
from course_utils.utils import atomic_write, disk_error, number_order

KEPT = 2  # newest checkpoints that are kept: the last, and one to fall back to
DIGITS = 32  # of the SHA-256 in the name
CHEAP_SECONDS = 0.1  # a checkpoint that takes no longer is written after every epoch,
TIME_SHARE = 0.1  # and one that does as soon as it takes at most this share of the time


class Pace:
    """When the next checkpoint is due, so that checkpoints take a small share of the time."""

    def __init__(self) -> None:
        self.cost, self.last = 0.0, time.perf_counter()  # seconds that the last one took; when it was finished

    def is_due(self) -> bool:
        return self.cost <= CHEAP_SECONDS or time.perf_counter() - self.last >= self.cost / TIME_SHARE

    def measure(self, save: Callable[..., Any], *arguments: Any) -> None:
        """Call ``save(*arguments)``, which writes a checkpoint, and take its time."""
        start = time.perf_counter()
        save(*arguments)
        self.last = time.perf_counter()
        self.cost = self.last - start


def save_checkpoint(folder: Path, epoch: int, state: dict[str, Any]) -> Path:
    """Write ``state``, plain data and tensors, after ``epoch`` epochs. Raises ``CourseError`` when the disk refuses."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with buffer.getbuffer() as data:
            path = folder / f"epoch-{epoch:04d}-{hashlib.sha256(data).hexdigest()[:DIGITS]}.pt"
            atomic_write(path, data)
    except OSError as error:
        raise CourseError(f"Could not write the checkpoint of epoch {epoch} into {folder}: {disk_error(error, folder)}."
                          " Earlier checkpoints are intact: free some space, and the run resumes from the last one."
                          ) from error
    for old in list_checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    found = [path for path in folder.glob("epoch-*-*.pt") if path.stem.split("-")[1].isdecimal()]
    return sorted(found, key=number_order)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state in ``path``, on the CPU. Raises ``CourseError`` when it changed or is not plain data, ``OSError``."""
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest()[:DIGITS] != path.stem.rsplit("-", 1)[-1]:
        raise CourseError(f"{path} is damaged: its SHA-256 is not the one in its name.")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever torch may raise
        raise CourseError(f"{path} holds something other than tensors, numbers and text: refused, no code in it was "
                          "executed.") from error
    if not isinstance(state, dict):
        raise CourseError(f"{path} is not a checkpoint: it holds a {type(state).__name__}.")
    return state


def load_latest(folder: Path, log: Callable[[str], None] = print) -> dict[str, Any] | None:
    """The newest intact state in ``folder``, or ``None``. Logs which files were skipped."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return load_checkpoint(path)
        except (CourseError, OSError) as error:
            log(f"{error} Looking for an earlier one.")
            with contextlib.suppress(OSError):  # else it would count among the newest and push out intact ones
                path.rename(path.with_suffix(".refused"))
    return None


def write_progress(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write ``folder/progress.json`` after an epoch, for a glance at a running training. A full disk is ignored."""
    accuracy = history[-1].get("val_accuracy", history[-1].get("test_accuracy"))
    progress = {"epoch": len(history), "accuracy": accuracy, "seconds": sum(row["seconds"] for row in history)}
    with contextlib.suppress(OSError):
        atomic_write(folder / "progress.json", json.dumps(progress) + "\n")
