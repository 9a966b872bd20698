"""All measurements, and the README they are written into:  python -m benchmarks  (ten minutes on a quiet machine)."""
from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import course, gpu, loader, profiles, startup, training, turns
from course_utils import plots
from course_utils.reporting import record
from course_utils.training import device as hardware

HOME = Path(__file__).parent
TEXT = """# Speed, measured side by side

Written by `python -m benchmarks`, from what it measured on {machine}, {threads} threads, commit {commit}, torch
{torch}. The plain way is [`plain.py`](plain.py): one image at a time, two workers, float32 in the usual layout. Both
ways take turns, so that a busy machine slows both; numbers are medians over the rounds, a ratio is the median of the
rounds' ratios. Each part has a command of its own: `python -m benchmarks.loader`, `.training`, `.startup`, `.course`,
`.profiles`.

## Against the plain way

{rows}

This processor has {units} for bfloat16 products, in which the goals for training steps were set. The best possible on
it, from what was measured in turns with ours:

{bounds}

## On a GPU

From the records of full runs, where there are any (`python -m benchmarks.gpu`).

{gpu}

## Cost against work

![seconds against the amount of work](scale.png)

{lines}

## Where the time goes

{profiles}
"""


def main() -> None:
    """Measures, and writes ``results.json``, ``scale.png`` and ``README.md`` beside this file."""
    parser = turns.parser(__doc__)
    parser.add_argument("--readme", action="store_true", help="measure nothing: only write the README anew, when there "
                        "is a new record of a run on a GPU")
    args = parser.parse_args()
    if not args.readme:
        _measure(args.rounds, args.root)
    found = json.loads((HOME / "results.json").read_text(encoding="utf-8"))
    (HOME / "README.md").write_text(text(found), encoding="utf-8")


def _measure(rounds: int, root: Path | None) -> None:
    lines = course.measure(min(3, rounds), root)
    rows = [*loader.measure(rounds, 10_000, root), *training.measure(rounds, 4, root),
            *startup.measure(rounds, root)]
    tables, bounds = profiles.measure(rounds, root)
    found = {"machine": hardware.describe_machine(), "threads": torch.get_num_threads(), "commit": record.commit(),
             "torch": torch.__version__, "bf16": hardware.has_bf16(torch.device("cpu")),
             "rows": [dataclasses.asdict(row) for row in rows], "lines": [dataclasses.asdict(line) for line in lines],
             "bounds": [dataclasses.asdict(bound) for bound in bounds], "profiles": tables}
    (HOME / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    plots.save_figure(course.draw(lines), HOME / "scale.png")


def text(found: Mapping[str, Any]) -> str:
    """The README of what was found (``results.json``)."""
    lines = [course.Line(**line) for line in found["lines"]]
    rows = [turns.Row(**row) for row in found["rows"]]
    return TEXT.format(machine=found["machine"], threads=found["threads"], commit=f"`{(found['commit'] or '–')[:7]}`",
                       torch=found["torch"], rows=turns.table(rows),
                       bounds=_bounds(rows, [profiles.Bound(**bound) for bound in found["bounds"]]),
                       units="units" if found["bf16"] else "no units", gpu=turns.table(gpu.rows()),
                       lines=course.table(lines),
                       profiles="\n\n".join(f"{name}:\n\n{rows}" for name, rows in found["profiles"].items()))


def _bounds(rows: Sequence[turns.Row], bounds: Sequence[profiles.Bound]) -> str:
    ratios = {row.what: row.ratio for row in rows}
    lines = ["| what | if it took no longer than | times ours | times the plain way |", "|" + " --- |" * 4]
    return "\n".join([*lines, *(f"| {bound.what} | {bound.why} | {bound.gain:.2f} | "
                                f"{bound.gain * ratios[bound.what]:.2f} |" for bound in bounds)])


if __name__ == "__main__":
    main()
