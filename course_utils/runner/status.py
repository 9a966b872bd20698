"""The state of each run: ``status.json`` of the batch and ``progress.json`` of the training, in the run's folder."""
import contextlib
import dataclasses
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.reporting.lock import is_locked
from course_utils.utils import align_columns, atomic_write, number_order

BATCH_LOCK = ".batch.lock"  # in a run's folder: the batch that will run it
HEADER = ("assignment", "run", "state", "epoch", "accuracy", "minutes", "left")
STATES = ("waiting", "running", "done", "failed", "killed", "timeout", "diverged", "out of memory")


@dataclass(frozen=True)
class Status:
    """Where one run stands."""

    assignment: str
    epochs: int  # of all stages
    state: str = "waiting"  # one of STATES; "killed": its kernel or its batch was killed
    message: str = ""  # the error, if there was one
    started_at: float | None = None  # seconds since 1970
    seconds: float = 0.0  # wall clock, start of the kernel included
    accuracy: float | None = None  # on the test images, 0 to 1, when it is done


def write_status(status: Status, folder: Path) -> None:
    """Write ``folder/status.json``. Raises ``OSError``."""
    atomic_write(folder / "status.json", json.dumps(dataclasses.asdict(status), indent=1) + "\n")


def read_status(folder: Path) -> Status | None:
    """The status in ``folder``, if there is a readable one. A run whose batch was killed is "killed"."""
    try:
        status = Status(**json.loads((folder / "status.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    if status.state not in STATES:
        return None
    if status.state == "running" and not is_locked(folder, BATCH_LOCK):
        return dataclasses.replace(status, state="killed", message="the batch that ran it was killed")
    return status


def read_progress(folder: Path) -> dict[str, Any]:
    """``epoch`` (finished ones), ``accuracy`` (of the last, 0 to 1) and ``seconds`` of training, over all stages."""
    parts = []
    for path in (folder / "progress.json", *sorted(folder.glob("stage*/progress.json"), key=number_order)):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            part = json.loads(path.read_text(encoding="utf-8"))
            parts.append((part["epoch"], part["seconds"], part["accuracy"]))
    epochs, seconds, accuracies = zip(*parts) if parts else ((), (), (None,))
    return {"epoch": sum(epochs), "seconds": sum(seconds), "accuracy": accuracies[-1]}


def status_table(folders: Sequence[Path]) -> str:
    """Plain text, one line per run."""
    return "\n".join(align_columns([HEADER, *status_rows(folders)]))


def status_rows(folders: Iterable[Path]) -> list[tuple[str, ...]]:
    """One row per run, under ``HEADER``; "left" is the remaining training, in minutes."""
    rows = []
    for folder in folders:
        if (status := read_status(folder)) is None:
            continue
        progress, running = read_progress(folder), status.state == "running"
        done, accuracy = progress["epoch"], progress["accuracy"] if running else status.accuracy
        seconds = time.time() - status.started_at if running and status.started_at else status.seconds
        left = progress["seconds"] / done * (status.epochs - done) if running and done else None
        rows.append((status.assignment, folder.name, status.state,
                     "" if status.state == "waiting" else f"{done}/{status.epochs}",
                     "" if accuracy is None else f"{accuracy:.2%}", f"{seconds / 60:.1f}" if seconds else "",
                     "" if left is None else f"{left / 60:.1f}"))
    return rows


def error_messages(folders: Iterable[Path], statuses: Iterable[Status | None]) -> str:
    """Plain text: name, state and message of each run that has a message."""
    return "\n".join(f"{folder.name}: {status.state}: {status.message}"
                     for folder, status in zip(folders, statuses) if status and status.message)
