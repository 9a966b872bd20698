"""Checkpoints: written whole or not at all, checked by SHA-256 before they are believed, loaded as plain data.

The first digits of a file's SHA-256 stand in its name, so that one rename puts both in place; the rest of the name
counts epochs: ``epoch-0007-3f2a9c....pt``. ``torch.load(path, weights_only=True)`` reads one by itself.
"""
from __future__ import annotations

import contextlib
import hashlib
import io
from pathlib import Path
from typing import Any

import torch

from course_utils.errors import CourseError
from course_utils.utils import refusal, write_whole

KEPT = 2  # newest checkpoints that stay: the last, and one to fall back to
DIGITS = 32  # of the SHA-256 in the name


def save(folder: Path, epoch: int, state: dict[str, Any]) -> Path:
    """Write ``state`` (tensors, numbers, strings, lists, dicts) as the checkpoint after ``epoch`` epochs.

    Raises ``CourseError`` when the disk refuses; what lay there before stays whole.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    path = folder / f"epoch-{epoch:04d}-{hashlib.sha256(data).hexdigest()[:DIGITS]}.pt"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, data)
    except OSError as error:
        raise CourseError(f"Could not write the checkpoint {path}: {refusal(error, folder)}. Earlier ones are whole: "
                          "make room, and the run goes on from the last.") from error
    for old in list_checkpoints(folder)[:-KEPT]:
        old.unlink(missing_ok=True)
    return path


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in ``folder``, oldest first."""
    return sorted(folder.glob("epoch-*-*.pt"))


def restore(path: Path) -> dict[str, Any]:
    """The state in ``path``, on the CPU. Raises ``CourseError`` when its bytes are not the ones it was written with, or
    hold more than tensors, numbers, strings, lists and dicts: nothing of it is ever executed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CourseError(f"{path} cannot be read: {error.strerror}.") from error
    if hashlib.sha256(data).hexdigest()[:DIGITS] != path.stem.rsplit("-", 1)[-1]:
        raise CourseError(f"{path} is damaged: its SHA-256 is not the one in its name.")
    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # whatever torch may find wrong with it
        raise CourseError(f"{path} holds something else than tensors, numbers and text: refused, nothing of it was "
                          "executed.") from error
    if not isinstance(state, dict):
        raise CourseError(f"{path} is no checkpoint: it holds a {type(state).__name__}.")
    return state


def latest(folder: Path, say: Any = print) -> dict[str, Any] | None:
    """The newest undamaged state in ``folder``, or ``None``. Says which files it had to pass over."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return restore(path)
        except CourseError as error:
            say(f"{error} Going back to the one before.")
            with contextlib.suppress(OSError):  # else it would count as one of the newest, and push out whole ones
                path.rename(path.with_suffix(".refused"))
    return None
