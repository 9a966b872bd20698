"""Small helpers that many modules need: paths, atomic writes, plain-text tables."""
import errno
import hashlib
import inspect
import os
import re
import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parent.parent
DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # the disk, the user's quota, a limit on file sizes


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


def file_sha256(path: Path) -> str:
    """SHA-256 of a file as hexadecimal digits."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def number_order(path: Path) -> list[str | int]:
    """A key that sorts files by the numbers in their names: ``seed2`` before ``seed10``."""
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]


def source_markdown(*objects: Any) -> str:
    """The source of functions and classes as a Markdown block: without a language, as nbconvert's page shows
    highlighted code in outputs in a proportional font.
    """
    texts = []
    for each in objects:
        try:
            texts.append(textwrap.dedent(inspect.getsource(each)).strip())
        except (OSError, TypeError):  # made by code, not written in a file
            texts.append(f"# The source of {each.__name__} is not in a file.")
    return "```\n" + "\n\n\n".join(texts) + "\n```"


def align_columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Plain text for a terminal: one line per row, columns aligned."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
