"""Errors whose message alone is enough: what is wrong, and what would be right."""
import difflib
from collections.abc import Collection, Iterable


class CourseError(ValueError):
    """The base class. The command line prints its message without a traceback."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook: the message, without lines of the package above it."""
        return [f"{type(self).__name__}: {self}"]


class DiskFullError(CourseError):
    """The disk is full."""


class DivergenceError(CourseError):
    """The loss is NaN or infinite, or far above that of random guessing."""


class OutOfMemoryError(CourseError):
    """A training step does not fit into the memory of the device."""


def unknown_name_error(kind: str, name: object, legal: Iterable[str]) -> CourseError:
    """The error for a ``name`` that is not among the ``legal`` ones, with a suggestion."""
    legal = sorted(legal)
    close = difflib.get_close_matches(str(name), legal, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return CourseError(f"Unknown {kind}: {name!r}.{hint} Legal: {', '.join(legal) or 'none'}.")


def check_names(kind: str, names: Iterable[object], legal: Collection[str]) -> None:
    """Raise ``unknown_name_error`` for the first of ``names`` that is not among the ``legal`` ones."""
    for name in names:
        if name not in legal:
            raise unknown_name_error(kind, name, legal)
