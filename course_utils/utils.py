"""Small helpers that many modules need: paths, atomic writes, locks on folders, plain-text tables."""
import errno
import functools
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from filelock import SoftFileLease, Timeout

from course_utils.errors import CourseError

REPO = Path(__file__).resolve().parent.parent
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, a limit on file sizes
LEASE_SECONDS = 60.0  # without a sign of life, after which another host may take a folder over
UNREADABLE_SECONDS = 5.0  # after which a lock file that names no process is taken over: one cut short, or an old one


def disk_error(error: OSError, folder: Path) -> str:
    """Why ``folder``, which may not exist yet, cannot be written, with the free space on its disk."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{error.strerror} ({shutil.disk_usage(folder).free / 1e6:,.0f} MB free)"


def atomic_write(path: Path, *parts: bytes | memoryview | str) -> None:
    """Write ``parts`` (text as UTF-8) to a temporary file and rename it to ``path``.

    ``path`` holds either its old or its new content, never a part of it. Raises ``OSError``.
    """
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with partial.open("wb") as file:
            for part in parts:
                file.write(part.encode() if isinstance(part, str) else part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


@functools.cache
def _lease(folder: Path, name: str) -> SoftFileLease:
    return SoftFileLease(folder / name, lease_duration=LEASE_SECONDS, thread_local=False)


@functools.cache
def _host_name() -> str:
    """This machine as lock files name it: in a container with its process namespace."""
    with tempfile.TemporaryDirectory() as folder, SoftFileLease(Path(folder, "lock")) as lock:
        return lock.owner.hostname


def lock_folder(folder: Path, name: str = ".lock") -> None:
    """Take ``folder`` for this process until ``release_folder`` or the end of the process.

    The lock is a file that names host and process, which works on shared drives as well. One whose process was killed
    is taken over; one of another host when it shows no sign of life for a minute. Raises ``CourseError`` that names
    the owner.
    """
    lock, wait, owner = _lease(folder, name), 0.0, None
    for _ in range(2):
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


def is_locked(folder: Path, name: str = ".lock") -> bool:
    """Whether a living process, this one included, holds ``folder``."""
    lock = _lease(folder, name)
    if lock.is_locked:
        return True
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError):
        return (folder / name).exists()
    lock.release()
    return False


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Plain text for a terminal: one line per row, columns aligned."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
