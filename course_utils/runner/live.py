"""What a batch shows while it runs: one live table on a terminal, plain lines in a log."""
from __future__ import annotations

import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from course_utils.reporting import tables
from course_utils.runner import status

TOLD = 5  # columns whose change makes a line in a log; the times change by themselves
FEW = 20  # runs that are all shown


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
    """What runs or went wrong, a row each; the rest counted, so that many runs fit on a screen."""
    from rich.table import Table

    rows = status.rows(folders)
    counts = Counter(row[2] for row in rows)
    out = Table(*status.HEAD, caption=", ".join(f"{count} {state}" for state, count in counts.items()))
    for row in rows:
        if row[2] not in ("done", "waiting") or len(rows) <= FEW:
            out.add_row(*row, style={"done": "green", "running": "cyan", "waiting": "dim"}.get(row[2], "red"))
    return out
