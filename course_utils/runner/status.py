"""What becomes of a run, in two files in its folder: ``status.json`` of the batch, ``progress.json`` of the training.

Both are written whole, so that anyone may read them at any time.
"""
from __future__ import annotations

import contextlib
import dataclasses
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils.runner import processes
from course_utils.errors import CourseError, check_types, unknown
from course_utils.utils import write_whole

STATES = ("waiting", "running", "done", "failed", "died", "hung", "diverged", "out of memory")


@dataclass(frozen=True)
class Status:
    """Where one run stands."""

    assignment: str
    variant: str
    seed: int
    epochs: int  # of all stages
    state: str = "waiting"  # one of STATES; "died": its kernel, or the batch that ran it, was killed
    message: str = ""  # the first words of the error, if there was one
    begun: float | None = None  # seconds since 1970
    seconds: float = 0.0  # wall clock from its start to its end, start of the kernel included
    accuracy: float | None = None  # on the test images, 0 to 1, of a run that is done
    process: Sequence[float] | None = None  # the batch's, as ``processes.this_process`` tells it

    def __post_init__(self) -> None:
        check_types(self, ("process",))
        if self.state not in STATES:
            raise unknown("state of a run", self.state, STATES)


def write_status(status: Status, folder: Path) -> None:
    """Write ``folder/status.json``. Raises ``OSError`` when the disk refuses."""
    write_whole(folder / "status.json", json.dumps(dataclasses.asdict(status), indent=1) + "\n")


def read_status(folder: Path) -> Status | None:
    """The status in ``folder``, if it holds one that can be read. What a killed batch left as running has died."""
    try:
        found = Status(**json.loads((folder / "status.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, CourseError):
        return None
    if found.state == "running" and not processes.lives(found.process):
        return dataclasses.replace(found, state="died", message="the batch that ran it was killed")
    return found


def note_progress(folder: Path, history: Sequence[Mapping[str, float]]) -> None:
    """Write ``folder/progress.json`` after an epoch: how many are done, the last one's accuracy, seconds of all.

    It is there to be looked at: a disk that refuses it ends no training.
    """
    last = history[-1]
    with contextlib.suppress(OSError):
        write_whole(folder / "progress.json", json.dumps({
            "epoch": len(history), "accuracy": last.get("val_accuracy", last.get("test_accuracy")),
            "seconds": sum(row["seconds"] for row in history)}) + "\n")


def progress(folder: Path) -> dict[str, Any]:
    """``epoch`` (done so far), ``accuracy`` (the last one's, 0 to 1) and ``seconds`` of training, over all stages."""
    whole: dict[str, Any] = {"epoch": 0, "accuracy": None, "seconds": 0.0}
    for path in (folder / "progress.json", *sorted(folder.glob("stage*/progress.json"))):
        try:
            part = json.loads(path.read_text(encoding="utf-8"))
            accuracy = part["accuracy"]
            whole = {"epoch": whole["epoch"] + int(part["epoch"]), "seconds": whole["seconds"] + float(part["seconds"]),
                     "accuracy": accuracy if accuracy is None else float(accuracy)}
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            continue
    return whole


HEAD = ("assignment", "run", "state", "epoch", "accuracy", "minutes", "left")


def rows(folders: Sequence[Path]) -> list[tuple[str, ...]]:
    """One row for each run under ``HEAD``, as they stand now; "left" is for training alone."""
    lines = []
    for folder in folders:
        now, went = read_status(folder), progress(folder)
        if now is None:
            continue
        running = now.state == "running"
        accuracy = went["accuracy"] if running else now.accuracy
        seconds = time.time() - now.begun if running and now.begun else now.seconds
        left = went["seconds"] / went["epoch"] * (now.epochs - went["epoch"]) if running and went["epoch"] else None
        lines.append((now.assignment, folder.name, now.state,
                      "" if now.state == "waiting" else f"{went['epoch']}/{now.epochs}",
                      "" if accuracy is None else f"{accuracy:.2%}", f"{seconds / 60:.1f}" if seconds else "",
                      "" if left is None else f"{left / 60:.1f}"))
    return lines


def complaints(found: Mapping[Path, Status]) -> str:
    """Plain text: of each run, by its folder, that failed in whatever way, its name and the message it left."""
    return "\n".join(f"{folder.name}: {now.state}: {now.message}" for folder, now in found.items() if now.message)
