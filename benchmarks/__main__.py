"""All measurements, and the README with their results:  python -m benchmarks  (five minutes on a quiet machine)."""
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks import gpu, loader, timing, training
from course_utils.reporting.record import commit
from course_utils.training.device import describe_machine, has_bf16

HOME = Path(__file__).parent
TEXT = """# Speed

Written by `python -m benchmarks`, measured on {machine}, {threads} threads, commit {commit}, torch {torch}. The
baseline is [`baseline.py`](baseline.py): one image at a time, two workers, float32 in the default memory format. Both
take turns, so that a busy machine slows both; numbers are medians over the rounds, a ratio is the median of the
rounds' ratios. This processor has {units} for bfloat16 products, in which the goals for training steps were set.

{rows}

## On a GPU

From the records of full runs (`python -m benchmarks.gpu`). Training steps are replayed CUDA graphs.

{gpu}

The rest of a step was not profiled. By count, a step of the custom ResNet moves 6 GB through the memory (batch norms,
ReLUs, Adam): about half of its time. `s7` has no row: its grouped and depthwise convolutions took about 20 ms a step
beside seven other runs, and its 200 epochs did not fit into the time that we had on the GPU.
"""


def main() -> None:
    """Measure, and write ``results.json`` and ``README.md`` beside this file."""
    parser = timing.parser(__doc__)
    parser.add_argument("--readme", action="store_true", help="measure nothing: only write the README again")
    args = parser.parse_args()
    if not args.readme:
        rows = [*loader.measure(args.rounds, 10_000, args.root), *training.measure(args.rounds, 4, args.root)]
        found = {"machine": describe_machine(), "threads": torch.get_num_threads(), "commit": commit(),
                 "torch": torch.__version__, "bf16": has_bf16(torch.device("cpu")),
                 "rows": [dataclasses.asdict(row) for row in rows]}
        (HOME / "results.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    found = json.loads((HOME / "results.json").read_text(encoding="utf-8"))
    (HOME / "README.md").write_text(readme(found), encoding="utf-8")


def readme(found: Mapping[str, Any]) -> str:
    """The README of ``results.json``."""
    rows = [timing.Row(**row) for row in found["rows"]]
    return TEXT.format(machine=found["machine"], threads=found["threads"], commit=f"`{(found['commit'] or '–')[:7]}`",
                       torch=found["torch"], units="units" if found["bf16"] else "no units", rows=timing.table(rows),
                       gpu=timing.table(gpu.rows()))


if __name__ == "__main__":
    main()
