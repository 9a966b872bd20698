"""What a batch shows while it runs: one live table on a terminal, plain lines in a log."""
from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from course_utils import status, tables

TOLD = 6  # columns whose change makes a line in a log; the times change by themselves


@contextlib.contextmanager
def board(folders: Sequence[Path]) -> Iterator[Callable[[], None]]:
    """Gives the function that a batch calls every second to show where the runs in ``folders`` stand."""
    if sys.stdout.isatty():
        from rich.live import Live

        with Live(_rich_table(folders), auto_refresh=False, transient=True) as live:
            yield lambda: live.update(_rich_table(folders), refresh=True)
        return
    told: set[tuple[str, ...]] = set()

    def tell() -> None:
        for row in status.rows(folders):
            line = row[:TOLD]
            if line not in told:
                told.add(line)
                print("  ".join(cell for cell in line if cell), flush=True)

    yield tell


def table(folders: Sequence[Path]) -> str:
    """Plain text, one line a run."""
    return "\n".join(tables.aligned([status.HEAD, *status.rows(folders)]))


def _rich_table(folders: Sequence[Path]) -> object:
    from rich.table import Table

    colours = {"done": "green", "running": "cyan", "waiting": "dim"}
    out = Table(*status.HEAD)
    for row in status.rows(folders):
        out.add_row(*row, style=colours.get(row[3], "red"))
    return out
