"""One notebook, headless: papermill in a process of its own, and how it ended."""
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import yaml

from course_utils.errors import CourseError, check_names
from course_utils.reporting.executed import strip_paths
from course_utils.utils import REPO, atomic_write, disk_error

MARGIN_SECONDS = 300  # beyond the time limits of all cells, after which papermill itself is assumed to hang
ERROR_PATTERNS = (  # state of a failed run, by the start of its error message
    ("diverged", r"DivergenceError\b"),
    ("out of memory", r"(OutOfMemoryError|MemoryError)\b|RuntimeError: .*(out of memory|not enough memory|"
                      r"can't allocate memory)"),
    ("timeout", r"[\w.]*CellTimeoutError: .*while it was being executed"),
    ("killed", r"[\w.]*DeadKernelError\b"))
# papermill in a process that ends when the batch is killed (Linux: PR_SET_PDEATHSIG); its kernel then ends by itself
PAPERMILL = """
import ctypes, runpy, signal, sys
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
runpy.run_module("papermill", run_name="__main__", alter_sys=True)
"""
RUN_FOLDER = "COURSE_RUN_FOLDER"  # environment variable that all processes of a run inherit
NOT_STARTED = r"[Aa]ddress already in use|Kernel didn't respond|Kernel died before replying"  # worth a second try


def run_notebook(notebook: str, parameters: Mapping[str, Any], folder: Path, cell_seconds: float,
                 environment: Mapping[str, str], stop: threading.Event) -> tuple[str, str]:
    """Execute ``notebooks/<notebook>.ipynb`` into ``folder``; return its state and error. When ``stop`` is set,
    papermill and its kernel are killed. No process of the run outlives this call.
    """
    source = REPO / "notebooks" / f"{notebook}.ipynb"
    cells = sum(cell["cell_type"] == "code" for cell in json.loads(source.read_text(encoding="utf-8"))["cells"])
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        output, log = Path(scratch, source.name), Path(scratch, "log")
        command = [sys.executable, "-c", PAPERMILL, str(source), str(output), "--no-progress-bar", "--cwd", str(REPO),
                   "--kernel", "python3", "--start-timeout", "120", "-y", yaml.safe_dump(dict(parameters)),
                   "--execution-timeout", str(max(1, round(cell_seconds)))]
        kill_processes(folder)  # left by an earlier run whose batch was killed
        for _ in range(2):
            code = _run(command, log, {**os.environ, **environment, RUN_FOLDER: str(folder)},
                        cell_seconds * cells + MARGIN_SECONDS, stop)
            kill_processes(folder)
            text = log.read_text(encoding="utf-8", errors="replace")
            if not code or stop.is_set() or not re.search(NOT_STARTED, text):
                break
        try:
            error = _save_executed(output, folder) if output.exists() and not stop.is_set() else ""
        except OSError as refused:
            code, error = code or 1, f"OSError: {folder}: {disk_error(refused, folder)}"
        return _classify(code, error, text)


def _run(command: list[str], log: Path, environment: Mapping[str, str], seconds: float,
         stop: threading.Event) -> int | None:
    """Exit code; ``None`` after so many ``seconds``."""
    deadline = time.monotonic() + seconds
    with log.open("w") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=sink, env=environment, cwd=REPO, start_new_session=True)
    while process.poll() is None and time.monotonic() < deadline and not stop.wait(0.2):
        pass
    if (code := process.poll()) is None:
        kill_processes(Path(environment[RUN_FOLDER]))
        process.wait()
    return code


def kill_processes(folder: Path) -> None:
    """Kill every process of a run: papermill, its kernel in a session of its own, and what a network has forked."""
    while True:  # one that is killed may have forked in the meantime
        found = 0
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(RUN_FOLDER) == str(folder) and process.status() != psutil.STATUS_ZOMBIE:
                    process.kill()
                    found += 1
        if not found:
            return
        time.sleep(0.05)


def _save_executed(output: Path, folder: Path) -> str:
    """Put an executed notebook without local paths into ``folder``; return the error that it ends with."""
    try:
        text = strip_paths(output)
    except (ValueError, KeyError):
        return ""  # killed while it was written
    atomic_write(folder / output.name, text)
    errors = [item for cell in json.loads(text)["cells"] for item in cell.get("outputs", ())
              if item["output_type"] == "error"]
    return f"{errors[-1]['ename']}: {errors[-1]['evalue']}" if errors else ""


def _classify(code: int | None, error: str, log: str) -> tuple[str, str]:
    """State and message of a run by papermill's exit code, the notebook's error and papermill's log."""
    if code == 0:
        return "done", ""
    if code is None:
        return "timeout", "no end within the time limits of all cells (--limit SECONDS is that of one cell)"
    if code < 0 and not error:
        return "killed", f"papermill was killed by signal {-code}: out of memory?"
    lines = [line for line in log.splitlines() if line.strip()]
    last = ([line for line in lines if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)] or lines or [""])[-1]
    message = last if last.startswith("nbclient.") else error or last or f"papermill ended with exit code {code}"
    state = next((state for state, pattern in ERROR_PATTERNS if re.match(pattern, message)), "failed")
    return state, f"the kernel was killed: out of memory? ({message})" if state == "killed" else message


def check_parameters(notebook: Path, names: Mapping[str, Any]) -> None:
    """Raise ``CourseError`` for a missing notebook or an unknown parameter (papermill would only warn)."""
    import papermill

    if not notebook.is_file():
        raise CourseError(f"There is no notebook {notebook}.")
    check_names(f"parameter of {notebook.name}", names, papermill.inspect_notebook(str(notebook)))
