"""A repository of one notebook that writes a record, but for the seeds that have another fate."""
from __future__ import annotations

from pathlib import Path

import nbformat
from test_record import NAME, finished

from course_utils.reporting import record
from course_utils.runner import batch
from course_utils.variants import load_experiment

PARAMETERS = """VARIANT: str = ""  # one
PROFILE: str = ""  # two
SEED: int = 0  # three
EPOCHS: int = None  # four
OUTPUT_DIR: str = None  # five"""
FATES = {1: "raise ValueError('too bad:\\nsee below')", 2: "os.kill(os.getpid(), 9)", 3: "time.sleep(60)",
         4: "raise DivergenceError('The loss is no longer a number in epoch 2.')", 5: "raise MemoryError('not that much')",
         6: "raise SystemExit",
         9: "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)]; Path('deaf').touch(); "
            "time.sleep(60)",
         10: "print('long ' * 20_000)"}  # then it ends well, if there is room for so long a notebook
SEEDS = range(11)


def make(folder: Path) -> None:
    """The repository, in ``folder``; a file "mended" there turns every fate to the good."""
    (folder / "notebooks").mkdir()
    work = ["import os, shutil, signal, time", "from pathlib import Path", "from course_utils.errors import DivergenceError",
            "if Path('mended').exists():", "    pass"]
    for seed, fate in FATES.items():
        work += [f"elif SEED == {seed}:", f"    {fate}"]
    work.append("shutil.copy(f'records/{SEED}.json', f'{OUTPUT_DIR}/published-3epochs-seed{SEED}-sample/record.json')")
    work.append("print('whole')")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PARAMETERS),
                                           nbformat.v4.new_code_cell("\n".join(work))])
    book.cells[0].metadata["tags"] = ["parameters"]
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(book, folder / "notebooks" / "03_cifar10_custom_resnet.ipynb")
    (folder / "records").mkdir()
    for seed in SEEDS:
        made = record.write(finished(seed, profile="smoke"), folder / "records")
        made.rename(made.with_name(f"{seed}.json"))


def planned(course: Path, *seeds: int) -> list[batch.Job]:
    """Jobs of these seeds."""
    runs = [load_experiment(NAME, profile="smoke", seed=seed, epochs=3) for seed in seeds]
    return batch.plan(runs, {"EPOCHS": 3}, course / "out put")
