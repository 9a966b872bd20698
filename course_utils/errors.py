"""The one error of this package, and how a wrong name is answered."""
from __future__ import annotations

import difflib
from collections.abc import Iterable


class CourseError(ValueError):
    """The one error of this package: its message says what is wrong and what would be right."""

    def _render_traceback_(self) -> list[str]:
        """What a notebook shows (IPython asks for it): the message alone, no lines of ours above it."""
        return [f"{type(self).__name__}: {self}"]


class NoRoom(CourseError):
    """The disk is full: another way to get the same would fail as well."""


class Diverged(CourseError):
    """The loss is no longer a number, or far above what guessing costs."""


class NoMemory(CourseError):
    """A step did not fit into the memory of the device."""


def unknown(kind: str, name: object, legal: Iterable[str]) -> CourseError:
    """The error for a ``name`` that is not one of the ``legal`` ones; guesses what was meant."""
    legal = sorted(legal)
    close = difflib.get_close_matches(str(name), legal, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return CourseError(f"Unknown {kind}: {name!r}.{hint} Legal: {', '.join(legal) or 'none'}.")
