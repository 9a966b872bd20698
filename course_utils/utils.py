"""Small helpers that many modules need: paths, atomic writes, locks on folders, plain-text tables."""
from __future__ import annotations

import contextlib
import errno
import functools
import json
import os
import platform
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock, Timeout

from course_utils.errors import CourseError

REPO = Path(__file__).resolve().parent.parent
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, a limit on file sizes
HEARTBEAT_SECONDS = 20.0  # between two signs of life of a lock's owner
LOCK_EXPIRES_SECONDS = 120.0  # without a sign of life, after which another host may take the folder


def disk_error(error: OSError, folder: Path) -> str:
    """Why ``folder`` cannot be written, with the space that is free there."""
    return f"{error.strerror} ({format_free_space(folder)})"


def format_free_space(folder: Path) -> str:
    """Free space on the disk of ``folder``, which may not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB free"


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


class FolderLock:
    """Exclusive use of a folder by one process, on one machine or on a shared drive.

    The operating system's lock (filelock) decides between processes of one machine, and is released when a process is
    killed. File systems that are shared may not pass such locks on to other machines. So the owner also writes its
    host and process number beside it and renews that file; a fresh file of another host means "in use".
    """

    def __init__(self, folder: Path, name: str = ".lock") -> None:
        self._lock = FileLock(folder / name)
        self._owner_file = folder / f"{name}.owner"
        self._stop = threading.Event()

    def acquire(self) -> None:
        """Take the folder. Raises ``CourseError``, naming the owner, when another process uses it."""
        if self._lock.is_locked:
            return
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise self._in_use() from None
        except (NotImplementedError, OSError):  # no locks on this file system: the owner's file decides alone
            pass
        if self._owned_elsewhere():
            self._lock.release()
            raise self._in_use()
        self._write_owner()
        self._stop.clear()
        threading.Thread(target=self._renew, daemon=True).start()

    def release(self) -> None:
        """Give the folder back; does nothing when it is not held."""
        if not self._stop.is_set() and self._owner() == _this_process():
            self._owner_file.unlink(missing_ok=True)
        self._stop.set()
        self._lock.release()

    def is_held(self) -> bool:
        """Whether any process uses the folder, this one included."""
        if self._lock.is_locked:
            return True
        try:
            self.acquire()
        except CourseError:
            return True
        except OSError:  # a folder that cannot be written
            return False
        self.release()
        return False

    def _in_use(self) -> CourseError:
        owner = self._owner()
        who = f"Process {owner['pid']} on {owner['host']}" if owner else "Another process"
        return CourseError(f"{who} is using {self._owner_file.parent}: wait for it or stop it (it may be an open "
                           "notebook), or choose another OUTPUT_DIR (--output).")

    def _owner(self) -> dict[str, object] | None:
        try:
            owner = json.loads(self._owner_file.read_text(encoding="utf-8"))
            return {"host": owner["host"], "pid": owner["pid"]}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _owned_elsewhere(self) -> bool:
        """Whether a process of another host renewed its file lately; both times are of the file system's clock."""
        owner = self._owner()
        if owner is None or owner["host"] == platform.node():
            return False
        probe = self._owner_file.with_suffix(f".probe-{os.getpid()}")
        probe.touch()
        age = probe.stat().st_mtime - self._owner_file.stat().st_mtime
        probe.unlink()
        return age < LOCK_EXPIRES_SECONDS

    def _write_owner(self) -> None:
        atomic_write(self._owner_file, json.dumps(_this_process()))

    def _renew(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):
                os.utime(self._owner_file)


def _this_process() -> dict[str, object]:
    return {"host": platform.node(), "pid": os.getpid()}


@functools.cache
def folder_lock(folder: Path, name: str = ".lock") -> FolderLock:
    """The one lock of this process for ``folder``; it is held until ``release`` or the end of the process."""
    return FolderLock(folder, name)


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Plain text for a terminal: one line per row, columns aligned."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
