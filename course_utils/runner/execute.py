"""One notebook headless: papermill in a process of its own, and what became of it, told from what it left."""
from __future__ import annotations

import json
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course_utils.reporting import record
from course_utils.runner import processes, warm
from course_utils.errors import CourseError, unknown
from course_utils.utils import DISK_FULL, REPO, free_words, write_whole

MARGIN = 300  # seconds beyond what all cells may take, after which papermill itself is taken to hang
SERVER_GONE = 255  # what multiprocessing takes for the exit code of a process whose server was killed
GRACE = 10  # seconds that killed processes have to be gone
NAMED = {"Diverged": "diverged", "NoMemory": "out of memory", "OutOfMemoryError": "out of memory",
         "MemoryError": "out of memory"}  # by exception
SIGNS = (  # at the beginning of what it, or papermill's log, ended with
    ("out of memory", r"RuntimeError: .*(out of memory|not enough memory|can't allocate memory)"),
    ("hung", r"[\w.]*CellTimeoutError: .*while it was being executed"),
    ("died", r"[\w.]*DeadKernelError\b"),
)
NOT_STARTED = r"[Aa]ddress already in use|Kernel didn't respond|Kernel died before replying"  # worth another try


def execute(notebook: str, parameters: Mapping[str, Any], folder: Path, cell_seconds: float,
            environment: Mapping[str, str], stopping: threading.Event) -> tuple[str, str]:
    """Run ``notebooks/<notebook>.ipynb`` and leave it, executed, with a page of it, in ``folder``.

    Returns its state and, if something went wrong, the words for it. When ``stopping`` is set it is ended.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        output, log = Path(scratch, f"{notebook}.ipynb"), Path(scratch, "log")
        work = (REPO / "notebooks" / output.name, output, log, parameters, cell_seconds, environment, stopping)
        code = _papermill(*work)
        words = log.read_text(encoding="utf-8", errors="replace")
        if code and not stopping.is_set() and re.search(NOT_STARTED, words):
            code = _papermill(*work)
            words = log.read_text(encoding="utf-8", errors="replace")
        try:
            error = _keep(output, folder, stopping) if output.exists() else ""
        except OSError as refused:
            code, error = code or 1, f"OSError: {refused}"
        state, told = _verdict(code, error, words)
        return state, told + _room(told, output, folder)


def _room(told: str, output: Path, folder: Path) -> str:
    """If it was the disk: where an executed notebook comes to lie, and what is free there."""
    if not told.startswith("OSError") or not any(os.strerror(number) in told for number in DISK_FULL):
        return ""
    return (f" ({output.name} is written in {output.parent}, {free_words(output)}, and then moved to {folder}, "
            f"{free_words(folder)})")


def _papermill(source: Path, output: Path, log: Path, parameters: Mapping[str, Any], cell_seconds: float,
               environment: Mapping[str, str], stopping: threading.Event) -> int | None:
    """Exit code; ``None`` when it took longer than all its cells may take together."""
    until = time.monotonic() + cell_seconds * _code_cells(source) + MARGIN
    process = warm.begin(source, output, parameters, REPO, cell_seconds, log, environment)
    while process.is_alive() and time.monotonic() < until and not stopping.is_set():
        process.join(0.2)
    code = process.exitcode
    if code in (None, SERVER_GONE):
        processes.end_tree(process.pid, GRACE)
        process.join(GRACE)
    return code


def _code_cells(source: Path) -> int:
    return sum(cell["cell_type"] == "code" for cell in json.loads(source.read_text(encoding="utf-8"))["cells"])


def _keep(output: Path, folder: Path, stopping: threading.Event) -> str:
    """Put an executed notebook without paths in its place, and a page of it beside it; return the error it ends with.

    The page is for reading alone: where it cannot be made, the run is none the worse.
    """
    try:
        text = record.without_paths(output)
    except (OSError, ValueError, KeyError):
        return ""  # cut while it was written
    write_whole(folder / output.name, text)
    page = (folder / output.name).with_suffix(".html")
    page.unlink(missing_ok=True)
    if not stopping.is_set():
        try:
            from nbconvert import HTMLExporter

            write_whole(page, HTMLExporter().from_filename(str(folder / output.name))[0])
        except Exception as error:  # whatever templates and converters may raise
            print(f"no page of {output.name}: {error}", file=sys.stderr)
    return _last_error(text)


def _last_error(text: str) -> str:
    """``Name: message`` of the exception that an executed notebook ended with, else nothing."""
    found = [output for cell in json.loads(text)["cells"] for output in cell.get("outputs", ())
             if output["output_type"] == "error"]
    return f"{found[-1]['ename']}: {found[-1]['evalue']}" if found else ""


def _verdict(code: int | None, error: str, log: str) -> tuple[str, str]:
    if code == 0:
        return "done", ""
    if code is None:
        return "hung", "no end within the time limit of all its cells (--limit SECONDS is for one)"
    if code == SERVER_GONE:
        return "died", "it was ended, since the process that had begun it was killed"
    if code < 0 and not error:
        return "died", f"papermill was ended by signal {-code}: out of memory?"
    last = _last_exception(log)
    if last.startswith("nbclient."):  # papermill's own words: then an error in the notebook is only what followed
        error = ""
    told = error or last or f"papermill ended with {code}"
    named = NAMED.get(told.partition(":")[0])
    state = named or next((state for state, sign in SIGNS if re.match(sign, told)), "failed")
    return state, f"its kernel was killed: for want of memory? ({told})" if state == "died" else told


def _last_exception(log: str) -> str:
    """The line of it, else the last line that says anything."""
    lines = [line for line in log.splitlines() if line.strip()]
    found = [line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return (found or lines or [""])[-1]


def check_parameters(notebook: Path, names: Mapping[str, Any]) -> None:
    """Raise ``CourseError`` for a parameter that the notebook does not have (papermill would only warn), and for a
    notebook that is not there.
    """
    import papermill

    if not notebook.is_file():
        raise CourseError(f"There is no notebook {notebook}.")
    legal = papermill.inspect_notebook(str(notebook))
    for name in names:
        if name not in legal:
            raise unknown(f"parameter of {notebook.name}", name, legal)
