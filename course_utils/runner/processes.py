"""Which process is at work where. A process is known by its number and its start, since numbers come again."""
from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import psutil

from course_utils.errors import CourseError

LOCK = ".lock"  # in a run's folder: the process that is at work there


def this_process() -> list[float]:
    """Number and start (seconds since 1970) of this process."""
    return [os.getpid(), psutil.Process().create_time()]


def lives(who: Sequence[float] | None) -> bool:
    """Whether the process that ``this_process`` described is still there; one that only waits to be buried is not."""
    try:
        found = psutil.Process(int(who[0])) if who else None
        return found is not None and found.status() != psutil.STATUS_ZOMBIE and (
            _same(who, [found.pid, found.create_time()]))
    except (psutil.Error, ValueError, LookupError, TypeError, OverflowError):
        return False


def _same(one: Sequence[float], other: Sequence[float]) -> bool:
    """Starts are reckoned from the wall clock, which may be set right in between."""
    return one[0] == other[0] and abs(one[1] - other[1]) < 60


def is_this(who: Sequence[float] | None) -> bool:
    """Whether ``who`` is this process."""
    return bool(who) and _same(who, this_process())


def other_alive(who: Sequence[float] | None) -> int | None:
    """The number of the process ``who``, if it lives and is not this one."""
    return int(who[0]) if lives(who) and not is_this(who) else None


def claim(folder: Path) -> None:
    """Say in ``folder`` that this process is at work there, until it ends or calls ``release``.

    Raises ``CourseError`` when another living process is; one that has died is taken over from.
    """
    with (folder / LOCK).open("a+", encoding="utf-8", errors="replace") as file:
        _alone(file)
        file.seek(0)
        if number := other_alive(_owner_in(file.read())):
            raise CourseError(f"Process {number} is at work in {folder}: wait for it or end it (it may be a "
                              "notebook that is still open), or choose another OUTPUT_DIR.")
        file.truncate(0)
        file.write(json.dumps(this_process()))


def release(folder: Path) -> None:
    """Work in ``folder`` is done, if it was this process that was at work there."""
    if is_this(_holder(folder)):
        (folder / LOCK).unlink(missing_ok=True)


def at_work(folder: Path) -> int | None:
    """The number of the living process, not this one, that is at work in ``folder``."""
    return other_alive(_holder(folder))


def _holder(folder: Path) -> list[float] | None:
    try:
        return _owner_in((folder / LOCK).read_text(encoding="utf-8", errors="replace"))
    except OSError:
        return None


def _owner_in(text: str) -> list[float] | None:
    try:
        found = json.loads(text)
    except ValueError:
        return None
    whole = isinstance(found, list) and len(found) == 2 and all(isinstance(part, int | float) for part in found)
    return found if whole else None


def _alone(file: TextIO) -> None:
    """Wait until no other process is between reading and writing ``file``; closing it lets the next one in.

    Where files cannot be locked (Windows, some network disks), two that start in the same instant both go on.
    """
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX)


def end_tree(number: int, grace: float) -> None:
    """Kill a process and all that it started, and wait for them at most ``grace`` seconds.

    A notebook's kernel has a session of its own, and may be deaf or not yet listening: it would outlive its parent.
    """
    try:
        top = psutil.Process(number)
        top.suspend()  # so that it starts nothing more
        tree = [top, *top.children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(tree[1:], grace)
