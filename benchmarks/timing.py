"""Timing two implementations in turns, so that a busy machine slows both, and the table of their ratios."""
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

from course_utils.training.device import describe_machine

WAYS = ("baseline", "ours")
HEAD = ("what", "baseline", "ours", "unit", "ratio", "rounds", "goal", "met")


@dataclass(frozen=True)
class Row:
    """One comparison."""

    what: str
    baseline: float | None  # median over the rounds; None: there is none
    ours: float | None  # likewise; None: not yet measured
    unit: str
    ratio: float | None  # ours / baseline, median over the rounds
    rounds: int
    goal: str = ""
    met: bool | None = None  # None: no goal, or not yet measured


def in_processes(prepare: Callable[..., Callable[[], Any]], rounds: int, *args: Any) -> dict[str, list[Any]]:
    """``rounds`` measurements of each of ``WAYS``, in turns, each in a process of its own.

    ``prepare(way, *args)`` returns the function that measures. Separate processes, since memory allocation is set per
    process.
    """
    context, pipes, processes = multiprocessing.get_context("spawn"), {}, []
    for way in WAYS:
        pipes[way], end = context.Pipe()
        processes.append(context.Process(target=_answer, args=(end, prepare, way, *args)))
        processes[-1].start()
        end.close()  # so that a process that dies is noticed
    try:
        return interleaved({way: functools.partial(_ask, pipe) for way, pipe in pipes.items()}, rounds)
    finally:
        for pipe, process in zip(pipes.values(), processes):
            pipe.close()
            process.join()


def interleaved(ways: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, list[Any]]:
    """Call each of ``ways`` in turn, ``rounds`` times; each returns what it measured."""
    found: dict[str, list[Any]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            found[name].append(way())
    return found


def _ask(pipe: Connection) -> Any:
    pipe.send(None)  # one works, the other waits
    return pipe.recv()


def _answer(pipe: Connection, prepare: Callable[..., Callable[[], Any]], *args: Any) -> None:
    multiprocessing.set_start_method(None, force=True)  # DataLoader workers start as usual
    measure = prepare(*args)
    try:
        while True:
            pipe.recv()
            pipe.send(measure())
    except EOFError:  # no more measurements
        pass


def ratio_row(what: str, found: Mapping[str, Sequence[float]], unit: str, goal: float | None = None) -> Row:
    """The row of measurements of rates by way. ``goal``: the wanted ratio."""
    ratio = statistics.median(ours / baseline for baseline, ours in zip(found["baseline"], found["ours"]))
    return Row(what, statistics.median(found["baseline"]), statistics.median(found["ours"]), unit, ratio,
               len(found["ours"]), "" if goal is None else f"{goal:g} x", None if goal is None else ratio >= goal)


def table(rows: Iterable[Row]) -> str:
    """Markdown."""
    lines = ["| " + " | ".join(HEAD) + " |", "|" + " --- |" * len(HEAD)]
    for row in rows:
        met = {None: "", True: "yes", False: "**no**"}[row.met] if row.ours is not None else "not yet measured"
        cells = (row.what, _number(row.baseline), _number(row.ours), row.unit, _number(row.ratio), row.rounds or "",
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
    made.add_argument("--rounds", type=int, default=rounds, help="measurements of each way")
    made.add_argument("--root", type=Path, help="folder of the data sets")
    return made


def show(found: str) -> None:
    """Print a table and the machine."""
    print(f"{describe_machine()}, {torch.get_num_threads()} threads\n\n{found}")


def seconds(work: Callable[[], object]) -> float:
    """Wall clock of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
