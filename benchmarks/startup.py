"""How long one waits for the first training step, and how much memory a run holds.

    python -m benchmarks.startup [--rounds 5]

A notebook of four cells (imports, drawn data, a network, one step) is executed by ``papermill`` in the plain way and in
ours, in turns: from nothing, and as one of a batch, whose server has imported what it needs (``course_utils.warm``).
The plain way's second notebook is like its first.
"""
from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat

from benchmarks import turns
from course_utils.runner import warm

FIRST, LATER, MEMORY = 5.0, 2.0, 1.5  # goals: seconds, seconds, times (data + torch's own)
PLAIN = [
    """import albumentations, matplotlib.pyplot, numpy as np, torch, torchvision
import torch.nn.functional as F""",
    """x, y = torch.rand(64, 3, 32, 32), torch.arange(64) % 10""",
    """model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), torch.nn.Flatten(), torch.nn.Linear(16 * 900, 10))
optimizer = torch.optim.SGD(model.parameters(), 0.01)""",
    """F.cross_entropy(model(x), y).backward()
optimizer.step()
import time; open(STAMP, "w").write(str(time.time()))""",
]
OURS = [
    """import torch
from course_utils import colab, plots
from course_utils.augment import pipeline as augment
from course_utils.evaluation import metrics as evaluate
from course_utils.models import summary as anatomy
from course_utils.reporting import record, tables
from course_utils.training import device as hardware, optim, trainer as train
from course_utils.data.datasets import open_dataset
from course_utils.variants import load_experiment
from course_utils.data.loader import make_loaders
from course_utils.models import build_model
from course_utils.training.step import train_step""",
    """exp = load_experiment("gtsrb_stn", "lenet", "smoke", train_images=258, test_images=86)
data = open_dataset(exp.dataset, None, exp.data, exp.seed, exp.train_images, exp.test_images)""",
    """machine = hardware.select_device(exp.precision)
batches = make_loaders(exp, data, machine.placement).train
step = train_step(exp, build_model(exp.model, len(data.classes)), exp.lr, machine)""",
    """step(*next(batches.epoch(1)))
import time; open(STAMP, "w").write(str(time.time()))""",
]


def main() -> None:
    """Prints a Markdown table."""
    args = turns.parser(__doc__).parse_args()
    turns.show(turns.table(measure(args.rounds, args.root)))


def measure(rounds: int, root: Path | None = None) -> list[turns.Row]:
    """Rows for the first and for later notebooks, and for memory."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        ours = write(folder, "ours", OURS)
        ways = {"ours": lambda: by_command(ours), "later": lambda: by_server(ours)}
        theirs = write(folder, "plain", PLAIN)
        if _importable("torchvision"):
            ways = {"plain": lambda: by_command(theirs)} | ways
        by_server(ours)  # the first of a batch waits for the server
        found = turns.in_turns(ways, rounds)
    return [turns.at_most("from `papermill` to the first training step", found["ours"], "s", FIRST,
                          found.get("plain", ())),
            turns.at_most("the same for the second and later notebooks of a batch", found["later"], "s", LATER,
                          found.get("plain", ())), _memory(root)]


def _importable(module: str) -> bool:
    return subprocess.run([sys.executable, "-c", f"import {module}"], capture_output=True).returncode == 0


def write(folder: Path, name: str, cells: list[str]) -> Path:
    """A notebook of ``cells`` in ``folder``, which leaves there when its last cell ended."""
    stamp = json.dumps(str(folder / "stamp"))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(f"STAMP = {stamp}"),
                                           *map(nbformat.v4.new_code_cell, cells)])
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(book, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


def by_command(notebook: Path) -> float:
    """Seconds from the command ``papermill`` to the end of the first step."""
    begun = time.time()
    subprocess.run([sys.executable, "-m", "papermill", notebook, notebook.with_name("out.ipynb"), "--no-progress-bar",
                    "--cwd", notebook.parent], check=True, capture_output=True)
    return float(notebook.with_name("stamp").read_text()) - begun


def by_server(notebook: Path) -> float:
    """Likewise, as one of a batch."""
    begun = time.time()
    process = warm.begin(notebook, notebook.with_name("out.ipynb"), {}, notebook.parent, 300,
                         notebook.with_name("log"), {})
    process.join()
    if process.exitcode:
        raise RuntimeError(notebook.with_name("log").read_text())
    return float(notebook.with_name("stamp").read_text()) - begun


PEAK = """
import itertools, resource, sys
import torch
from course_utils.training import device as hardware
from course_utils.data.datasets import open_dataset
from course_utils.variants import load_experiment
from course_utils.data.loader import make_loaders
from course_utils.models import build_model
from course_utils.training.step import train_step
exp = load_experiment("cifar10_dilated_depthwise", "s7")
data = open_dataset(exp.dataset, sys.argv[2] or None, train_images=None if sys.argv[1] == "whole" else 200,
                    test_images=None if sys.argv[1] == "whole" else 200)
machine = hardware.select_device("fp32")
loaders = make_loaders(exp, data, machine.placement)
step = train_step(exp, build_model(exp.model, 10), 0.01, machine)
for batches in (loaders.train, loaders.test) if sys.argv[1] == "whole" else ():
    for _ in batches.epoch(1):
        pass
for _, (x, y) in zip(range(3), itertools.cycle(loaders.train.epoch(1))):
    step(x, y)
size = sum(array.nbytes for array in (data.train_images, data.train_labels, data.test_images, data.test_labels))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024, size)
"""


def _memory(root: Path | None) -> turns.Row:
    """Peak of a process that goes once through CIFAR-10 and trains s7, against one that trains it on 200 images."""
    def peak(what: str) -> tuple[int, int]:
        ran = subprocess.run([sys.executable, "-c", PEAK, what, str(root or "")], capture_output=True, text=True)
        if ran.returncode:
            raise RuntimeError(ran.stderr)
        return tuple(map(int, ran.stdout.split()))

    (own, few), (whole, size) = peak("few"), peak("whole")
    times = whole / (own - few + size)
    return turns.at_most("peak memory of a run, times (its data + torch's own)", [times], "x", MEMORY)


if __name__ == "__main__":
    main()
