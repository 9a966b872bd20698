"""Locks on the folders of runs: one process at a time writes there, on shared drives too."""
import _thread
import contextlib
import functools
import tempfile
import time
from pathlib import Path

from filelock import SoftFileLease, Timeout

from course_utils.errors import CourseError

LEASE_SECONDS = 60.0  # without a sign of life, after which another host may take a folder over
UNREADABLE_SECONDS = 5.0  # after which a lock file that names no process is taken over: one cut short, or an old one


@functools.cache
def _lease(folder: Path, name: str) -> SoftFileLease:
    """Interrupts the program (Ctrl-C) if another host takes the folder over, as after a pause: two must not write."""
    return SoftFileLease(folder / name, lease_duration=LEASE_SECONDS, thread_local=False,
                         on_compromise=lambda loss: loss.reason == "owner-changed" and _thread.interrupt_main())


def _host_name() -> str:
    """This machine as lock files name it: in a container with its process namespace."""
    with tempfile.TemporaryDirectory() as folder, SoftFileLease(Path(folder, "lock")) as lock:
        return lock.owner.hostname


def lock_folder(folder: Path, name: str = ".lock") -> None:
    """Take ``folder`` for this process until ``release_folder`` or its end, by a file that names host and process. One
    whose process was killed is taken over; one of another host when it shows no sign of life for a minute. Raises
    ``CourseError`` that names the owner.
    """
    lock, wait, owner = _lease(folder, name), 0.0, None
    for _ in range(2):
        with contextlib.suppress(OSError):  # a lock file that was cut short before anything was written
            found = (folder / name).stat()
            if not found.st_size and time.time() - found.st_mtime > UNREADABLE_SECONDS:
                (folder / name).unlink()
        try:
            if not lock.is_locked:
                lock.acquire(timeout=wait)
            return
        except Timeout:
            owner = lock.owner
            if owner and owner.hostname == _host_name():
                break
            wait = 1.25 * LEASE_SECONDS if owner else UNREADABLE_SECONDS
    who = f"Process {owner.pid} on {owner.hostname}" if owner else "Another process"
    raise CourseError(f"{who} is using {folder}: wait for it or stop it (it may be an open notebook), or choose "
                      "another OUTPUT_DIR (--output).")


def release_folder(folder: Path, name: str = ".lock") -> None:
    """Give ``folder`` back, if this process holds it."""
    _lease(folder, name).release()


def is_held(folder: Path, name: str = ".lock") -> bool:
    """Whether ``folder`` is still this process's: during a long pause another host may have taken it over."""
    lock = _lease(folder, name)
    try:
        return lock.is_locked and f"token={lock.token}" in (folder / name).read_text(encoding="utf-8")
    except OSError:
        return False


def is_locked(folder: Path, name: str = ".lock") -> bool:
    """Whether a living process, this one included, holds ``folder``."""
    lock = _lease(folder, name)
    if not lock.is_locked:
        with contextlib.suppress(Timeout, OSError), lock.acquire(timeout=0):
            return False
    return (folder / name).exists()
