"""Where the time goes, of what is measured elsewhere: by operator, and by import.

    python -m benchmarks.profiles
"""
from __future__ import annotations

import argparse
import re
import subprocess
import sys
from pathlib import Path

from torch.profiler import ProfilerActivity, profile

from benchmarks import startup, turns
from course_utils import hardware, train
from course_utils.datasets import open_dataset
from course_utils.experiment import load
from course_utils.loader import make_loaders
from course_utils.models import build_model

SHOWN = 6  # lines of a profile
IMPORTS = ("torch", "torch._dynamo", "matplotlib.axes", "accelerate", "numpy", "papermill", "ipykernel.kernelapp")


def main() -> None:
    """Prints a Markdown table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, help="folder of the data sets")
    args = parser.parse_args()
    print("\n\n".join(measure(args.root).values()))


def measure(root: Path | None = None) -> dict[str, str]:
    """Heading -> table."""
    exp = load("cifar10_dilated_depthwise", "s7")
    data = open_dataset(exp.dataset, root, train_images=5_120, test_images=100)
    machine = hardware.choose_machine("fp32")
    batches = make_loaders(exp, data, machine.placement).train
    step = train.make_step(exp, build_model(exp.model, len(data.classes)), 0.01, machine)
    drawn = [batch for batch, _ in zip(batches.epoch(1), range(6))]
    step(*drawn.pop())
    return {"A training step of `s7`, by operator": _operators(lambda: [step(x, y) for x, y in drawn]),
            "Augmented batches of CIFAR-10 as `s7` has them, by operator": _operators(
                lambda: turns.drain(batches.epoch(2))),
            "To the first training step, by import": _imports()}


def _operators(work: object) -> str:
    with profile(activities=[ProfilerActivity.CPU]) as found:
        work()
    rows = sorted(found.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    lines = [f"| `{row.key}` | {row.self_cpu_time_total / whole:.0%} |" for row in rows[:SHOWN]]
    rest = sum(row.self_cpu_time_total for row in rows[SHOWN:]) / whole
    return "\n".join(["| operator | share of the time |", "| --- | --- |", *lines, f"| all others | {rest:.0%} |"])


def _imports() -> str:
    """Seconds of whole imports, which may hold each other; ``torch._dynamo`` is what torch's optimisers import."""
    code = startup.OURS[0] + "\nimport torch._dynamo, papermill, ipykernel.kernelapp"
    told = subprocess.run([sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True).stderr
    seconds = {name: int(total) / 1e6 for total, name in re.findall(r"\|\s*(\d+) \|\s*(\S+)$", told, re.MULTILINE)}
    lines = [f"| `{name}` | {seconds[name]:.2f} |" for name in sorted(IMPORTS, key=lambda name: -seconds[name])]
    return "\n".join(["| import | s |", "| --- | --- |", *lines])


if __name__ == "__main__":
    main()
