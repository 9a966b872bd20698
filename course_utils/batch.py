"""Notebooks run headless with papermill, one process each."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import record
from course_utils.experiment import REPO, CourseError, Experiment, describe, unknown

CELL_SECONDS = {"smoke": 300, "full": 7 * 86_400}  # time limit of one cell
MARGIN = 300  # seconds beyond it, after which papermill itself is taken to hang


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    notebook: str
    variant: str
    status: str  # "done", or "failed: ..." with the first line of the error
    accuracy: float | None  # on the test images, 0 to 1
    seconds: float  # wall clock, start of the kernel included
    executed: Path  # the executed notebook

    @property
    def done(self) -> bool:
        return self.status == "done"


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Raise ``CourseError`` for a parameter that the notebook does not have (papermill would only warn)."""
    import papermill

    legal = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in legal:
            raise unknown(f"parameter of {notebook.name}", name, legal)


def run(exp: Experiment, parameters: Mapping[str, Any] | None = None, folder: Path | None = None) -> Outcome:
    """Run the experiment's notebook with ``parameters`` besides VARIANT, PROFILE and SEED.

    It counts as done only when papermill succeeded **and** the notebook's last cell wrote a whole record.
    """
    name = describe(exp.assignment)["notebook"]
    source = REPO / "notebooks" / f"{name}.ipynb"
    parameters = {"VARIANT": exp.variant, "PROFILE": exp.profile, "SEED": exp.seed} | dict(parameters or {})
    check_parameters(source, parameters)
    folder = record.run_folder(exp, folder)
    executed = folder / f"{name}.ipynb"
    (folder / "record.json").unlink(missing_ok=True)
    begun = time.monotonic()
    error = _papermill(source, executed, parameters | {"OUTPUT_DIR": _shown(folder)}, exp.profile)
    accuracy = None
    if error is None:
        try:
            accuracy = record.read(folder / "record.json")["final"]["accuracy"]
        except CourseError as missing:
            error = str(missing)
    status = "done" if error is None else f"failed: {error}"
    return Outcome(name, exp.variant, status, accuracy, time.monotonic() - begun, executed)


def _shown(path: Path) -> str:
    """``path`` as it may stand in a notebook: relative to the repository where it lies inside."""
    return str(path.relative_to(REPO)) if path.is_relative_to(REPO) else str(path)


def _papermill(source: Path, executed: Path, parameters: Mapping[str, Any], profile: str) -> str | None:
    """Run papermill in a process group of its own; ``None``, or what went wrong. ``executed`` is written at the end."""
    with tempfile.TemporaryDirectory() as scratch:
        output, log = Path(scratch, executed.name), Path(scratch, "log")
        command = [sys.executable, "-m", "papermill", str(source), str(output), "--cwd", str(REPO), "--no-progress-bar",
                   "--kernel", "python3", "--start-timeout", "120", "--execution-timeout", str(CELL_SECONDS[profile])]
        for name, value in parameters.items():
            command += ["-p", name, str(value)]
        with log.open("w") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                code = process.wait(CELL_SECONDS[profile] + MARGIN)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        if output.exists():
            clean(output, source)
            executed.write_bytes(output.read_bytes())
        if code == 0:
            return None
        if code is None:
            return f"no end within {CELL_SECONDS[profile] + MARGIN} s"
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else f"papermill ended with {code}"


def clean(path: Path, source: Path) -> None:
    """Take out of an executed notebook what only this machine knows: the paths that papermill notes down."""
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    noted = notebook.metadata.get("papermill", {})
    noted.update(input_path=source.name, output_path=path.name)
    nbformat.write(notebook, path)


def show(outcomes: Sequence[Outcome]) -> str:
    """The table at the end of a batch."""
    rows = [("notebook", "variant", "status", "accuracy", "seconds", "executed notebook")]
    for out in outcomes:
        accuracy = "" if out.accuracy is None else f"{out.accuracy:.2%}"
        rows.append((out.notebook, out.variant, out.status, accuracy, f"{out.seconds:.0f}", _shown(out.executed)))
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows)
