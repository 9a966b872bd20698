"""A repository of one notebook that writes a record, except for the seeds that fail in some way."""
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from helpers import finished_record

from course_utils.reporting import write_record
from course_utils.runner import batch, execute
from course_utils.variants import load_experiment

NAME = "cifar10_custom_resnet"
PARAMETERS = """VARIANT: str = ""  # one
PROFILE: str = ""  # two
SEED: int = 0  # three
EPOCHS: int = None  # four
OUTPUT_DIR: str = None  # five"""
FAILURES = {  # by seed
    1: "raise ValueError('invalid:\\nsee below')", 2: "os.kill(os.getpid(), 9)", 3: "time.sleep(60)",
    4: "raise DivergenceError('The loss is NaN or infinite: epoch 2.')", 5: "raise MemoryError('too much')",
    6: "raise SystemExit",
    9: "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)]; Path('started').touch(); "
       "time.sleep(60)",  # cannot be interrupted
    11: "import subprocess; subprocess.Popen(['sleep', '600'], start_new_session=True)",  # left behind
    10: "print('long ' * 20_000)"}  # then it is done, if the disk has room for the notebook


@dataclass(frozen=True)
class Course:
    folder: Path  # a file "repaired" in it lets every seed succeed

    @property
    def outputs(self):
        return self.folder / "out put"

    def plan(self, *seeds, **settings):
        """The jobs of these seeds."""
        runs = [load_experiment(NAME, profile="smoke", seed=seed, epochs=3) for seed in seeds]
        return batch.plan_jobs(runs, {"EPOCHS": 3}, self.outputs, **settings)


@pytest.fixture
def course(tmp_path, monkeypatch):
    work = ["import os, shutil, signal, time", "from pathlib import Path",
            "from course_utils.errors import DivergenceError", "if Path('repaired').exists():", "    pass"]
    for seed, failure in FAILURES.items():
        work += [f"elif SEED == {seed}:", f"    {failure}"]
    work += ["folder = f'{OUTPUT_DIR}/published-3epochs-seed{SEED}-synthetic'",
             "shutil.copy(f'records/{SEED}.json', f'{folder}/record.json')"]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PARAMETERS),
                                           nbformat.v4.new_code_cell("\n".join(work))])
    book.cells[0].metadata["tags"] = ["parameters"]
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    (tmp_path / "notebooks").mkdir()
    nbformat.write(book, tmp_path / "notebooks" / "03_cifar10_custom_resnet.ipynb")
    (tmp_path / "records").mkdir()
    for seed in range(12):
        path = write_record(finished_record(seed, profile="smoke"), tmp_path / "records")
        path.rename(path.with_name(f"{seed}.json"))
    for module in (batch, execute):
        monkeypatch.setattr(module, "REPO", tmp_path)
    return Course(tmp_path)
