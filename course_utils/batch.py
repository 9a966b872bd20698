"""Notebooks run headless with papermill, one process each."""
from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from course_utils import own, record, tables
from course_utils.errors import CourseError, unknown
from course_utils.experiment import Experiment, describe
from course_utils.files import REPO, write_whole

CELL_SECONDS = {"smoke": 300, "full": 7 * 86_400}  # time limit of one cell
MARGIN = 300  # seconds beyond it, after which papermill itself is taken to hang


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    notebook: str
    variant: str
    status: str  # "done", or "failed: ..." with the error's message
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


def run(exp: Experiment, parameters: Mapping[str, Any] | None = None, output_dir: Path | None = None) -> Outcome:
    """Run the experiment's notebook with ``parameters`` besides VARIANT, PROFILE, SEED and OUTPUT_DIR.

    It counts as done only when papermill succeeded **and** the notebook's last cell wrote a whole record.
    """
    name = describe(exp.assignment)["notebook"]
    source = REPO / "notebooks" / f"{name}.ipynb"
    parameters = {"VARIANT": exp.variant, "PROFILE": exp.profile, "SEED": exp.seed} | dict(parameters or {})
    if exp.model_file:  # the notebook runs in another folder
        parameters["MODEL"] = own.absolute(exp.model)
    check_parameters(source, parameters)
    folder = record.run_folder(exp, output_dir)
    executed = folder / f"{name}.ipynb"
    (folder / "record.json").unlink(missing_ok=True)
    begun = time.monotonic()
    error = _papermill(source, executed, parameters | {"OUTPUT_DIR": _shown(folder.parent)}, exp.profile)
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
            command += ["-r" if isinstance(value, str) else "-p", name, str(value)]  # -p would make 2.5 of "2.5"
        with log.open("w") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
            try:
                code = process.wait(CELL_SECONDS[profile] + MARGIN)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                if process.poll() is None:
                    process.kill() if os.name == "nt" else os.killpg(process.pid, signal.SIGKILL)
        if output.exists():
            write_whole(executed, record.without_paths(output))
        if code == 0:
            return None
        if code is None:
            return f"no end within {CELL_SECONDS[profile] + MARGIN} s"
        return _first_words(log.read_text(errors="replace")) or f"papermill ended with {code}"


def _first_words(log: str) -> str:
    """The message of the last exception in ``log``, all its lines; else the last line. What this package says comes
    first: it may quote another error.
    """
    lines = [line for line in log.splitlines() if line.strip()]
    begins = [k for k, line in enumerate(lines) if line.startswith("CourseError: ")] or [
        k for k, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return "\n".join(lines[begins[-1] if begins else -1:])


def show(outcomes: Sequence[Outcome]) -> str:
    """The table at the end of a batch."""
    rows = [("notebook", "variant", "status", "accuracy", "seconds", "executed notebook")]
    for out in outcomes:
        accuracy = "" if out.accuracy is None else f"{out.accuracy:.2%}"
        status = out.status.splitlines()[0]
        rows.append((out.notebook, out.variant, status, accuracy, f"{out.seconds:.0f}", _shown(out.executed)))
    return "\n".join(tables.aligned(rows))
