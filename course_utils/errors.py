"""The one error of this package, and how a wrong name is answered."""
from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Collection, Iterable
from typing import Any, get_type_hints


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


def check_types(instance: Any, skip: Collection[str] = ()) -> None:
    """Raise ``CourseError`` unless the fields of a dataclass, but for those in ``skip``, are of the types it names.

    A whole number where a ``float`` belongs becomes one.
    """
    hints = get_type_hints(type(instance))
    for name in (f.name for f in dataclasses.fields(instance) if f.name not in skip):
        value, legal = getattr(instance, name), getattr(hints[name], "__args__", (hints[name],))
        if float in legal and type(value) is int and abs(value) < 2**63:  # larger ones may not fit into a float
            object.__setattr__(instance, name, float(value))  # 1 is a lawful way to write 1.0
        elif type(value) not in legal:
            names = " or ".join("None" if t is type(None) else t.__name__ for t in legal)
            raise CourseError(f"{name} = {value!r}: must be {names}.")


def unknown(kind: str, name: object, legal: Iterable[str]) -> CourseError:
    """The error for a ``name`` that is not one of the ``legal`` ones; guesses what was meant."""
    legal = sorted(legal)
    close = difflib.get_close_matches(str(name), legal, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return CourseError(f"Unknown {kind}: {name!r}.{hint} Legal: {', '.join(legal) or 'none'}.")
