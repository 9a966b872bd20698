"""What the scripts share: options; two ways measured in turns, so that a busy machine slows both; their table."""
from __future__ import annotations

import argparse
import functools
import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from course_utils.training import device as hardware

WAYS = ("plain", "ours")
HEAD = ("what", "plain way", "ours", "", "ratio", "rounds", "goal", "met")


@dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str
    plain: float | None  # median over the rounds; None: there is no plain way to hold against
    ours: float | None  # likewise; None: not yet measured
    unit: str  # of both: "images/s", "s", ...
    ratio: float | None  # how many times better ours is, median over the rounds
    rounds: int
    goal: str = ""
    met: bool | None = None  # None: there is no goal, or it is not yet measured


def in_turns(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Call each of ``ways`` in turn, ``rounds`` times; each returns what it measured."""
    found: dict[str, list[Any]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def in_processes(prepare: Callable[..., Callable[[], Any]], rounds: int, *args: Any) -> dict[str, list[Any]]:
    """Likewise for ``WAYS``, in a process each, where ``prepare(way, *args)`` gives what measures. Processes apart,
    since how memory is kept is a matter of the whole process; and one that forks has to touch all of it anew.
    """
    context, pipes, works = multiprocessing.get_context("spawn"), {}, []
    for way in WAYS:
        pipes[way], end = context.Pipe()
        works.append(context.Process(target=_answer, args=(end, prepare, way, *args)))
        works[-1].start()
        end.close()  # so that a process that dies is noticed
    try:
        return in_turns({way: functools.partial(_ask, pipe) for way, pipe in pipes.items()}, rounds)
    finally:
        for pipe, work in zip(pipes.values(), works):
            pipe.close()
            work.join()


def _ask(pipe: Connection) -> Any:
    pipe.send(None)  # one works, the other waits
    return pipe.recv()


def _answer(pipe: Connection, prepare: Callable[..., Callable[[], Any]], *args: Any) -> None:
    multiprocessing.set_start_method(None, force=True)  # for loaders' workers: the system's own way again
    measure = prepare(*args)
    try:
        while True:
            pipe.recv()
            pipe.send(measure())
    except EOFError:  # no more is asked for
        pass


def compared(what: str, found: Mapping[str, Sequence[float]], unit: str, goal: float | None = None,
             smaller: bool = False) -> Row:
    """The row of what ``in_turns`` found for "plain" and "ours". ``goal``: the ratio wanted; with ``smaller``, of a
    quantity that is to be small.
    """
    pairs = list(zip(found["plain"], found["ours"]))
    ratio = statistics.median(a / b if smaller else b / a for a, b in pairs)
    return Row(what, statistics.median(found["plain"]), statistics.median(found["ours"]), unit, ratio, len(pairs),
               "" if goal is None else f"{goal:g} x", None if goal is None else ratio >= goal)


def at_most(what: str, found: Sequence[float], unit: str, goal: float, plain: Sequence[float] = ()) -> Row:
    """The row of a quantity that is to stay below ``goal``; of one not yet measured, ``found`` is empty."""
    ours = statistics.median(found) if found else None
    theirs = statistics.median(plain) if plain else None
    return Row(what, theirs, ours, unit, None, len(found), f"under {goal:g} {unit}",
               None if ours is None else ours < goal)


def table(rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for row in rows:
        met = {None: "", True: "yes", False: "**no**"}[row.met] if row.ours is not None else "not yet measured"
        cells = (row.what, _number(row.plain), _number(row.ours), row.unit, _number(row.ratio), row.rounds or "",
                 row.goal, met)
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def parser(doc: str, rounds: int = 5) -> argparse.ArgumentParser:
    """Of the command whose module has the docstring ``doc``: ``--rounds`` and ``--root``."""
    made = argparse.ArgumentParser(description=doc.splitlines()[0])
    made.add_argument("--rounds", type=int, default=rounds, help="how often each way has its turn")
    made.add_argument("--root", type=Path, help="folder of the data sets")
    return made


def show(found: str) -> None:
    """Print a table, and where it was measured."""
    print(f"{hardware.describe_machine()}, {torch.get_num_threads()} threads\n\n{found}")


def seconds(work: Callable[[], object]) -> float:
    """Wall clock of one call."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def drain(batches: Iterable) -> None:
    """Ask for every batch and do nothing with it."""
    for _ in batches:
        pass
