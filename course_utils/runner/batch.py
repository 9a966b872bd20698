"""Many notebooks, headless: one on each GPU, or some at a time on the CPU."""
import contextlib
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from course_utils.augment.transforms import build_steps
from course_utils.config import Experiment, describe_differences, locate_model
from course_utils.data.info import DATASETS
from course_utils.errors import CourseError, check_names
from course_utils.models import MODELS
from course_utils.reporting.lock import is_held, lock_folder, release_folder
from course_utils.reporting.record import read_record
from course_utils.reporting.run_folder import folder_of, reset
from course_utils.runner.cluster import RayExecutor
from course_utils.runner.execute import check_parameters, run_notebook
from course_utils.runner.status import BATCH_LOCK, Status, read_status, write_status
from course_utils.training.device import uses_cuda
from course_utils.utils import REPO
from course_utils.variants import read_assignment

# Time limit of one cell of a notebook that has the machine to itself
CELL_SECONDS = {"smoke": 300, "mini": 3600, "evaluate": 3600, "full": 7 * 86_400}
STAGGER_SECONDS = 1  # between the first starts: kernels that start together compete for the same ports


@dataclass(frozen=True)
class Job:
    """One notebook to run."""

    exp: Experiment
    folder: Path  # of the run; the executed notebook goes there as well
    notebook: str  # its name
    parameters: Mapping[str, Any]  # of the notebook

    def differences(self) -> list[str] | None:
        """In what the finished run in its folder differs from this experiment; ``None`` where none has finished."""
        try:
            record = read_record(self.folder / "record.json")
        except CourseError:
            return None
        differences = describe_differences(self.exp.as_dict(), record["experiment"])
        info = DATASETS[self.exp.dataset]  # own data may have been prepared again
        other = self.exp.data == "real" and not info.archives and record["data"]["sha256"] != info.sha256
        return differences + [f"data: found another {self.exp.dataset}"] * other

    def is_done(self) -> bool:
        """Whether this very experiment has finished: a second batch skips it."""
        status = read_status(self.folder)
        return (status is not None and status.state == "done" and self.differences() == []
                and (self.folder / f"{self.notebook}.ipynb").exists())

    def reset(self) -> None:
        reset(self.folder)
        (self.folder / "status.json").unlink(missing_ok=True)


def plan_jobs(experiments: Sequence[Experiment], parameters: Mapping[str, Any], output_dir: Path | None = None,
              restart: bool = False) -> list[Job]:
    """The jobs of a batch; with ``restart``, finished runs of another experiment are replaced. ``parameters``: the
    notebook's besides VARIANT, PROFILE, SEED and OUTPUT_DIR. Raises ``CourseError`` before anything starts: unknown
    parameter, folder in use, ...
    """
    jobs = []
    for exp in experiments:
        for part in exp.all_stages:
            build_steps((*part.augmentation, *part.expansion, *part.tta_augmentation))
        check_names("model", [exp.model] if not exp.model_file else [], MODELS)
        given = {"VARIANT": exp.variant, "PROFILE": exp.profile, "SEED": exp.seed} | dict(parameters)
        if "MODEL" in given and exp.model_file:  # the notebook runs in another folder
            given["MODEL"] = ":".join(map(str, locate_model(exp.model)))
        folder = folder_of(exp, output_dir and output_dir / exp.assignment)
        home = folder.parent  # as it may stand in a notebook: relative where it is inside the repository
        given["OUTPUT_DIR"] = str(home.relative_to(REPO) if home.is_relative_to(REPO) else home)
        jobs.append(Job(exp, folder, read_assignment(exp.assignment)["notebook"], given))
    if len({job.folder for job in jobs}) < len(jobs):
        raise CourseError("Two of the runs are the same: name each once.")
    for job in {job.notebook: job for job in jobs}.values():
        check_parameters(REPO / "notebooks" / f"{job.notebook}.ipynb", job.parameters)
    for job in jobs:
        lock_folder(job.folder)  # raises when a notebook uses it
        release_folder(job.folder)  # the notebook of this batch will take it
        lock_folder(job.folder, BATCH_LOCK)
        if (differences := job.differences()) and not restart and job.exp.profile == "full":
            raise CourseError(f"{job.folder} holds a finished run of another experiment: choose another --output, or "
                              "replace it by --restart. Differences:\n  " + "\n  ".join(differences))
    return jobs


def worker_slots(jobs: int = 1) -> list[dict[str, str]]:
    """Environment variables of each place for a run: ``jobs`` on each GPU, else ``jobs`` shares of the CPU."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not uses_cuda():
        return [{} if jobs == 1 else {"OMP_NUM_THREADS": str(max(1, cores // jobs))}] * jobs
    count = torch.cuda.device_count()
    listed = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return [{"CUDA_VISIBLE_DEVICES": name, "OMP_NUM_THREADS": str(max(1, cores // (count * jobs)))}
            for _ in range(jobs) for name in (listed or list(map(str, range(count))))[:count]]


class Batch:
    """Runs as many jobs at a time as there are ``slots``, here or on ``cluster``; ``limit``: seconds for one cell."""

    def __init__(self, jobs: Sequence[Job], slots: Sequence[Mapping[str, str]], limit: float | None = None,
                 cluster: RayExecutor | None = None) -> None:
        self.jobs, self.limit, self.width, self.cluster = jobs, limit, len(slots), cluster
        self.free_slots, self.stop = list(slots), threading.Event()
        self.statuses: dict[Path, Status] = {}  # by the runs' folders

    def run(self, on_tick: Callable[[], None] = lambda: None) -> list[Status]:
        """Run all, calling ``on_tick`` every second; one failure stops no other. Interrupted, kill the children, leave
        unfinished runs as waiting, and raise ``KeyboardInterrupt``.
        """
        pool = ThreadPoolExecutor(self.width)
        try:
            for job in self.jobs:
                self._note(job, "waiting")
            pending = {pool.submit(self._run_one, number, job) for number, job in enumerate(self.jobs)}
            while pending:
                _, pending = wait(pending, timeout=1, return_when=FIRST_COMPLETED)
                with contextlib.suppress(OSError):  # stdout was closed
                    on_tick()
        finally:
            while True:
                with contextlib.suppress(KeyboardInterrupt):  # a second one: a thread has yet to kill its notebook
                    self.stop.set()
                    pool.shutdown()
                    break
        for job in self.jobs:
            release_folder(job.folder, BATCH_LOCK)
        return list(self.statuses.values())

    def _run_one(self, number: int, job: Job) -> None:
        if self.stop.wait(number * STAGGER_SECONDS if number < self.width else 0):
            return
        environment, start = self.free_slots.pop(), time.time()
        try:
            self._note(job, "running", started_at=start)
            limit, path = self.limit or CELL_SECONDS[job.exp.profile] * self.width, job.folder / "record.json"
            before = path.stat().st_mtime_ns if path.exists() else None
            given = job.notebook, job.parameters, job.folder, limit, environment, self.stop
            dataset = job.exp.dataset if job.exp.data == "real" else None
            state, message = self.cluster(*given, dataset) if self.cluster else run_notebook(*given)
            if state != "done" and self.stop.is_set():
                return self._note(job, "waiting")
            differences = job.differences()
            if state == "done" and (differences is None or path.stat().st_mtime_ns == before):
                state, message = "failed", f"the notebook ended, but {job.folder.name} holds no complete record of it"
            elif state == "done" and differences:
                state, message = "failed", f"its record is of another experiment: {'; '.join(differences)}"
            accuracy = read_record(path)["final"]["accuracy"] if state == "done" else None
            self._note(job, state, message=message, started_at=start, seconds=time.time() - start, accuracy=accuracy)
        except Exception as error:  # a full disk, a removed folder: the other runs continue
            self._note(job, "failed", message=f"{type(error).__name__}: {error}", started_at=start)
        finally:
            self.free_slots.append(environment)

    def _note(self, job: Job, state: str, **more: Any) -> None:
        self.statuses[job.folder] = status = Status(job.exp.assignment, job.exp.all_epochs, state, **more)
        with contextlib.suppress(OSError):  # it is kept in ``statuses`` as well
            if is_held(job.folder, BATCH_LOCK):  # else another batch took the folder over, and the status is its own
                write_status(status, job.folder)
