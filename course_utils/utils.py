"""Where the repository lies, and writing a file whole or not at all."""
from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's share of it, a limit on files
REPO = Path(__file__).resolve().parent.parent


def refusal(error: OSError, folder: Path) -> str:
    """Why the disk refused to write into ``folder``, in words, with what is free there."""
    return f"{error.strerror} ({free_words(folder)})"


def free_words(folder: Path) -> str:
    """What is free on the disk of ``folder``, which need not be there yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return f"{shutil.disk_usage(folder).free / 1e6:,.0f} MB free"


def write_whole(path: Path, *parts: bytes | memoryview | str) -> None:
    """Write ``parts`` (text as UTF-8) to ``path``: under a temporary name beside it, then moved, so that ``path`` never
    holds half of it and what it held before stays until then. Raises ``OSError`` when the disk refuses.
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
