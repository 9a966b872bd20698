"""Many notebooks headless, each in processes of its own: one a GPU, or some at a time on the CPU."""
from __future__ import annotations

import contextlib
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from course_utils.models import custom as own
from course_utils.reporting import record
from course_utils.runner import execute as headless, processes, status
from course_utils.errors import CourseError
from course_utils.config import Experiment, describe, differences
from course_utils.utils import REPO
from course_utils.runner.status import Status

CELL_SECONDS = {"smoke": 300, "full": 7 * 86_400}  # time limit of one cell, when it has the machine for itself
STAGGER = 1  # seconds between the first starts: kernels that start together reach for the same ports


@dataclass(frozen=True)
class Job:
    """One notebook to run."""

    exp: Experiment
    folder: Path  # of the run; the executed notebook comes here as well
    parameters: Mapping[str, Any]  # all of the notebook's that are given

    @property
    def notebook(self) -> str:
        return describe(self.exp.assignment)["notebook"]

    def status(self) -> Status:
        """As its folder has it; before any run: waiting."""
        return status.read_status(self.folder) or self.as_status("waiting")

    def as_status(self, state: str, **more: Any) -> Status:
        exp = self.exp
        return Status(exp.assignment, exp.variant, exp.seed, exp.all_epochs, state, **more)

    def begin_anew(self) -> None:
        """Remove what it would go on from, and what says that it is done."""
        record.clear(self.folder)
        (self.folder / "status.json").unlink(missing_ok=True)

    def done(self) -> bool:
        """Whether it has run to its end, as this very experiment: then a second batch leaves it alone."""
        return self.differs() == [] and self.status().state == "done" and (
            self.folder / f"{self.notebook}.ipynb").exists()

    def differs(self) -> list[str] | None:
        """In what the record in its folder is of another experiment; ``None`` where there is none that can be read."""
        try:
            found = record.read(self.folder / "record.json")["experiment"]
        except CourseError:
            return None
        return differences(self.exp.as_dict(), found)

    def stamp(self) -> int | None:
        """When its record was written, in nanoseconds."""
        path = self.folder / "record.json"
        return path.stat().st_mtime_ns if path.exists() else None


def plan(experiments: Sequence[Experiment], parameters: Mapping[str, Any] | None = None,
         output_dir: Path | None = None, again: bool = False) -> list[Job]:
    """The jobs of a batch, each checked before anything starts: its notebook, its folder, who is at work there.

    ``parameters`` are the notebook's own, besides VARIANT, PROFILE, SEED and OUTPUT_DIR. With ``again``, a finished run
    of another experiment in a job's folder is none in its way. Raises ``CourseError``.
    """
    jobs = []
    for exp in experiments:
        given = {"VARIANT": exp.variant, "PROFILE": exp.profile, "SEED": exp.seed} | dict(parameters or {})
        if exp.model_file:  # the notebook runs in another folder
            given["MODEL"] = own.absolute(exp.model)
        folder = record.folder_of(exp, output_dir and whole(output_dir) / exp.assignment)
        jobs.append(Job(exp, folder, given | {"OUTPUT_DIR": shown(folder.parent)}))
    if len({job.folder for job in jobs}) < len(jobs):
        raise CourseError("Two of the runs are the same: name each once.")
    for name, of_notebook in {job.notebook: job for job in jobs}.items():
        headless.check_parameters(REPO / "notebooks" / f"{name}.ipynb", of_notebook.parameters)
    for job in jobs:
        _check_free(job, again)
    return jobs


def _check_free(job: Job, again: bool) -> None:
    now = job.status()
    waits = now.state in ("waiting", "running")  # in another batch, perhaps
    if number := processes.at_work(job.folder) or (processes.other_alive(now.process) if waits else None):
        raise CourseError(f"Process {number} is at work in {job.folder}: wait for it, end it, or choose another "
                          "--output.")
    differ = job.differs()
    if differ and not again and job.exp.profile == "full":
        raise CourseError(f"{job.folder} holds a finished run of another experiment: choose another --output, or "
                          "lose it by --again. What differs:\n  " + "\n  ".join(differ))


def whole(folder: Path) -> Path:
    """``folder`` as an absolute path, ``~`` resolved. Raises ``CourseError`` when there is no such user."""
    try:
        return folder.expanduser().resolve()
    except RuntimeError as error:
        raise CourseError(f"{folder}: {error}") from error


def slots(jobs: int = 1) -> list[dict[str, str]]:
    """Where runs may take place, as environment variables: each GPU once, else ``jobs`` shares of the processor."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
        names = (listed or [str(number) for number in range(count)])[:count]  # CUDA leaves out those that are not there
        return [{"CUDA_VISIBLE_DEVICES": name} | _share(cores, count) for name in names]
    return [_share(cores, jobs)] * jobs


def _share(cores: int, places: int) -> dict[str, str]:
    return {} if places == 1 else {"OMP_NUM_THREADS": str(max(1, cores // places))}


class Batch:
    """Runs jobs, as many at a time as there are ``places``; ``limit``: seconds a cell may take."""

    def __init__(self, jobs: Sequence[Job], places: Sequence[Mapping[str, str]], limit: float | None = None) -> None:
        self.jobs, self.limit, self.width = list(jobs), limit, len(places)
        self.places: queue.Queue[tuple[int, Mapping[str, str]]] = queue.Queue()
        for numbered in enumerate(places):
            self.places.put(numbered)
        self.found = [job.as_status("waiting", process=processes.this_process()) for job in self.jobs]
        self.stopping = threading.Event()

    def run(self, tell: Callable[[], None] = lambda: None) -> list[Status]:
        """Run all; ``tell`` is called every second. One failure stops no other. Interrupted, it ends its children,
        leaves what was not done as waiting, and raises ``KeyboardInterrupt``.
        """
        with ThreadPoolExecutor(self.width) as pool:
            try:
                for number in range(len(self.jobs)):
                    self._note(number, "waiting")
                left = {pool.submit(self._one, number) for number in range(len(self.jobs))}
                while left:
                    finished, left = wait(left, timeout=1, return_when=FIRST_COMPLETED)
                    for future in finished:
                        future.result()
                    with contextlib.suppress(OSError):  # nobody listens any more
                        tell()
            except BaseException:
                self.stopping.set()
                raise
        return list(self.found)

    def _one(self, number: int) -> None:
        place, environment = self.places.get()
        begun = time.time()
        try:
            if self.stopping.wait(place * STAGGER if number < self.width else 0):
                return
            self._note(number, "running", begun=begun)
            state, message, accuracy = self._work(self.jobs[number], environment)
            self._note(number, state, message=message, begun=begun, seconds=time.time() - begun, accuracy=accuracy)
        except Exception as error:  # a full disk, a folder that is gone: no matter of the other runs
            if self.stopping.is_set():  # or a server that Ctrl-C met while it began
                self._note(number, "waiting")
            else:
                self._note(number, "failed", message=f"{type(error).__name__}: {error}", begun=begun)
        finally:
            self.places.put((place, environment))

    def _work(self, job: Job, environment: Mapping[str, str]) -> tuple[str, str, float | None]:
        limit = self.limit or CELL_SECONDS[job.exp.profile] * self.width
        before = job.stamp()
        state, message = headless.execute(job.notebook, job.parameters, job.folder, limit, environment, self.stopping)
        if state == "done":
            differ = job.differs()
            if job.stamp() == before or differ is None:
                return "failed", f"the notebook ended, but {job.folder.name} holds no whole record of it", None
            if differ:
                return "failed", f"its record is of another experiment: {'; '.join(differ)}", None
            return "done", "", record.read(job.folder / "record.json")["final"]["accuracy"]
        return ("waiting", "", None) if self.stopping.is_set() else (state, message, None)

    def _note(self, number: int, state: str, **more: Any) -> None:
        job = self.jobs[number]
        self.found[number] = job.as_status(state, process=processes.this_process(), **more)
        with contextlib.suppress(OSError):  # it is kept in ``found`` as well
            status.write_status(self.found[number], job.folder)


def shown(path: Path) -> str:
    """``path`` as it may stand in a notebook: relative to the repository where it lies inside."""
    return str(path.relative_to(REPO)) if path.is_relative_to(REPO) else str(path)
