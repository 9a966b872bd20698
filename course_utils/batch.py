"""Many notebooks headless with papermill, each in processes of its own: one a GPU, or some at a time on the CPU."""
from __future__ import annotations

import json
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from course_utils import own, record, status
from course_utils.errors import CourseError, unknown
from course_utils.experiment import Experiment, describe
from course_utils.files import REPO, write_whole
from course_utils.status import Status

CELL_SECONDS = {"smoke": 300, "full": 7 * 86_400}  # time limit of one cell
MARGIN = 300  # seconds beyond it, after which papermill itself is taken to hang
GRACE = 10  # seconds between asking a process to end and ending it
SIGNS = (  # of how a notebook failed, at the beginning of a line of papermill's log
    ("hung", r"[\w.]*CellTimeoutError\b"),
    ("died", r"[\w.]*DeadKernelError\b"),
    ("diverged", r"Diverged: "),
    ("out of memory", r"[\w.]*(OutOfMemoryError|MemoryError)\b|RuntimeError: .*can't allocate memory"),
)


@dataclass(frozen=True)
class Job:
    """One notebook to run."""

    exp: Experiment
    folder: Path  # of the run; the executed notebook comes here as well
    parameters: Mapping[str, Any]  # all of the notebook's that are given

    @property
    def notebook(self) -> str:
        return describe(self.exp.assignment)["notebook"]

    @property
    def executed(self) -> Path:
        return self.folder / f"{self.notebook}.ipynb"

    def status(self) -> Status:
        """As its folder has it; before any run: waiting."""
        return status.read_status(self.folder) or _as_status(self, "waiting")

    def begin_anew(self) -> None:
        """Remove what it would go on from, and what says that it is done."""
        record.run_folder(self.exp, self.folder.parent, fresh=True)
        (self.folder / "status.json").unlink(missing_ok=True)

    def done(self) -> bool:
        """Whether it has run to its end, as this very experiment: then a second batch leaves it alone."""
        try:
            same = record.read(self.folder / "record.json")["experiment"] == _as_json(self.exp)
        except CourseError:
            return False
        return same and self.executed.exists() and self.status().state == "done"


def _as_status(job: Job, state: str, **more: Any) -> Status:
    exp = job.exp
    return Status(exp.assignment, exp.variant, exp.seed, exp.all_epochs, state, **more)


def _as_json(exp: Experiment) -> dict[str, Any]:
    """``exp.as_dict`` as a record has it: JSON knows no tuples."""
    return json.loads(json.dumps(exp.as_dict()))


def plan(experiments: Sequence[Experiment], parameters: Mapping[str, Any] | None = None,
         output_dir: Path | None = None) -> list[Job]:
    """The jobs of a batch, each checked before anything starts: its parameters, its notebook, its folder.

    ``parameters`` are the notebook's own, besides VARIANT, PROFILE, SEED and OUTPUT_DIR. Raises ``CourseError``.
    """
    jobs = []
    for exp in experiments:
        given = {"VARIANT": exp.variant, "PROFILE": exp.profile, "SEED": exp.seed} | dict(parameters or {})
        if exp.model_file:  # the notebook runs in another folder
            given["MODEL"] = own.absolute(exp.model)
        folder = record.run_folder(exp, output_dir, fresh=False)
        job = Job(exp, folder, given | {"OUTPUT_DIR": shown(folder.parent)})
        check_parameters(REPO / "notebooks" / f"{job.notebook}.ipynb", job.parameters)
        jobs.append(job)
    if len({job.folder for job in jobs}) < len(jobs):
        raise CourseError("Two of the runs are the same: name each once.")
    return jobs


def check_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    """Raise ``CourseError`` for a parameter that the notebook does not have (papermill would only warn)."""
    import papermill

    legal = papermill.inspect_notebook(str(notebook))
    for name in parameters:
        if name not in legal:
            raise unknown(f"parameter of {notebook.name}", name, legal)


def slots(jobs: int = 1) -> list[dict[str, str]]:
    """Where runs may take place, as environment variables: each GPU once, else ``jobs`` shares of the processor."""
    if torch.cuda.is_available():
        listed = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
        names = listed if listed != [""] else map(str, range(torch.cuda.device_count()))
        return [{"CUDA_VISIBLE_DEVICES": name} for name in names]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = {} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, cores // jobs))}
    return [share] * jobs


class Batch:
    """Runs jobs, as many at a time as there are ``places``; ``limit``: seconds a cell may take."""

    def __init__(self, jobs: Sequence[Job], places: Sequence[Mapping[str, str]], limit: float | None = None) -> None:
        self.jobs, self.limit = list(jobs), limit
        self.places: queue.Queue[Mapping[str, str]] = queue.Queue()
        for place in places:
            self.places.put(place)
        self.width = len(places)
        self.stopping = threading.Event()
        self.processes: dict[int, subprocess.Popen] = {}  # that are running, by number of their job

    def run(self, tell: Callable[[], None] = lambda: None) -> list[Status]:
        """Run all; ``tell`` is called every second. One failure stops no other. Interrupted, it ends its children,
        leaves what was not done as waiting, and raises ``KeyboardInterrupt``.
        """
        for job in self.jobs:
            self._note(job, "waiting")
        with ThreadPoolExecutor(self.width) as pool:
            left = {pool.submit(self._one, number) for number in range(len(self.jobs))}
            try:
                while left:
                    finished, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
                    for future in finished:
                        future.result()
                    tell()
            except BaseException:
                self._stop()
                raise
        return [job.status() for job in self.jobs]

    def _stop(self) -> None:
        self.stopping.set()
        for process in list(self.processes.values()):
            _end(process)

    def _one(self, number: int) -> None:
        job, place = self.jobs[number], self.places.get()
        try:
            if not self.stopping.is_set():
                self._work(number, job, place)
        finally:
            self.places.put(place)

    def _work(self, number: int, job: Job, place: Mapping[str, str]) -> None:
        begun = time.time()
        self._note(job, "running", begun=begun)
        for old in (job.folder / "record.json", job.executed.with_suffix(".html")):
            old.unlink(missing_ok=True)
        state, message = self._papermill(number, job, place)
        accuracy = None
        if state == "done":
            try:
                accuracy = record.read(job.folder / "record.json")["final"]["accuracy"]
            except CourseError as missing:
                state, message = "failed", str(missing)
        if self.stopping.is_set():
            state, message = "waiting", ""
        self._note(job, state, message=message, begun=begun, seconds=time.time() - begun, accuracy=accuracy)

    @staticmethod
    def _note(job: Job, state: str, **more: Any) -> None:
        status.write_status(_as_status(job, state, process=os.getpid(), **more), job.folder)

    def _papermill(self, number: int, job: Job, place: Mapping[str, str]) -> tuple[str, str]:
        """Its state and, if something went wrong, the words for it. The executed notebook is written in any case."""
        limit = self.limit or CELL_SECONDS[job.exp.profile]
        with tempfile.TemporaryDirectory() as scratch:
            output, log = Path(scratch, job.executed.name), Path(scratch, "log")
            command = _command(REPO / "notebooks" / job.executed.name, output, job.parameters, limit)
            with log.open("w") as sink:
                process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True,
                                           env={**os.environ, **place})
                self.processes[number] = process
                if self.stopping.is_set():
                    _end(process)
                try:
                    code = process.wait(limit + MARGIN)
                except subprocess.TimeoutExpired:
                    code = None
                finally:
                    _end(process)
                    del self.processes[number]
            if output.exists():
                _keep(output, job.executed)
            words = log.read_text(errors="replace")
        if code == 0:
            return "done", ""
        if code is None:
            return "hung", f"no end within {limit + MARGIN:.0f} s"
        return _state(words), first_words(words) or f"papermill ended with {code}"


def _command(source: Path, output: Path, parameters: Mapping[str, Any], limit: float) -> list[str]:
    command = [sys.executable, "-m", "papermill", str(source), str(output), "--cwd", str(REPO), "--no-progress-bar",
               "--kernel", "python3", "--start-timeout", "120", "--execution-timeout", str(round(limit))]
    for name, value in parameters.items():
        command += ["-r" if isinstance(value, str) else "-p", name, str(value)]  # -p would make 2.5 of "2.5"
    return command


def _end(process: subprocess.Popen) -> None:
    """End ``process`` and its group; a kernel, which has a group of its own, ends when it sees its parent gone."""
    if process.poll() is not None:
        return
    if os.name == "nt":
        process.kill()
        return
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE)
            return
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            return


def _keep(output: Path, executed: Path) -> None:
    """Put an executed notebook without paths in its place, and a page of it beside it."""
    from nbconvert import HTMLExporter

    write_whole(executed, record.without_paths(output))
    page, _ = HTMLExporter().from_filename(str(executed))
    write_whole(executed.with_suffix(".html"), page)


def _state(log: str) -> str:
    return next((state for state, sign in SIGNS if re.search(f"^({sign})", log, re.MULTILINE)), "failed")


def first_words(log: str) -> str:
    """The message of the last exception in ``log``, all its lines; else the last line. What this package says comes
    first: it may quote another error.
    """
    lines = [line for line in log.splitlines() if line.strip()]
    ours = tuple(f"{kind.__name__}: " for kind in (CourseError, *CourseError.__subclasses__()))
    begins = [k for k, line in enumerate(lines) if line.startswith(ours)] or [
        k for k, line in enumerate(lines) if re.match(r"[\w.]*(Error|Exception|Interrupt)\b", line)]
    return "\n".join(lines[begins[-1] if begins else -1:])


def shown(path: Path) -> str:
    """``path`` as it may stand in a notebook: relative to the repository where it lies inside."""
    return str(path.relative_to(REPO)) if path.is_relative_to(REPO) else str(path)
