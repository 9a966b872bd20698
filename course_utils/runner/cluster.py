"""A batch on a Ray cluster (docs.ray.io): each notebook is a task. Optional: ``pip install -e .[cluster]``."""
import io
import os
import tempfile
import threading
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from course_utils.data.prepare import data_root, prepare
from course_utils.errors import CourseError
from course_utils.reporting.record import commit
from course_utils.runner.execute import run_notebook
from course_utils.utils import REPO

RETRIES = 3  # of a run whose node or process was killed, or that took too long: on any node
LEFT_BEHIND = ["data", "outputs", "images", "assignments/*/runs", ".git", ".venv*", "**/__pycache__", "tests",
               "benchmarks"]  # of the repository; everything else travels to the nodes, 15 MB


class LostRunError(CourseError):
    """State and message of a run that another try may finish."""


def run_task(notebook: str, parameters: dict[str, Any], folder: Path, shared: bool, cell_seconds: float,
             environment: dict[str, str], dataset: str | None) -> tuple[str, str, bytes]:
    """On a node: run a notebook; return state, message, and its folder without checkpoints as a zip file.

    ``dataset``: the real data that it needs, prepared once on a node. With ``shared``, ``folder`` is on a drive of all
    nodes, and a retry resumes there. Raises ``LostRunError`` for "killed" and "timeout", so that Ray tries again.
    """
    os.environ.setdefault("COURSE_DATA", str(Path.home() / "course_data"))  # the code's own folder is temporary
    if dataset:
        data_root().mkdir(parents=True, exist_ok=True)
        with FileLock(data_root() / f".{dataset}.lock"):
            prepare(dataset, log=lambda line: None)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        home = folder.parent if shared else Path(scratch)
        folder = home / folder.name
        folder.mkdir(parents=True, exist_ok=True)
        state, message = run_notebook(notebook, parameters | {"OUTPUT_DIR": str(home)}, folder, cell_seconds,
                                      {"PYTHONPATH": str(REPO), **environment}, threading.Event())
        if state in ("killed", "timeout"):
            raise LostRunError(state, message)
        buffer = io.BytesIO()
        if not shared:
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                for path in folder.rglob("*"):
                    if path.is_file() and path.suffix != ".pt":
                        archive.write(path, path.relative_to(folder))
    return state, message, buffer.getvalue()


class RayExecutor:
    """Runs the notebooks of a ``Batch`` on a Ray cluster, as ``run_notebook`` does here. Raises ``CourseError``."""

    def __init__(self, address: str | None, cpus: int, shared: bool) -> None:
        try:
            import ray
        except ImportError:
            raise CourseError("--executor ray needs Ray: pip install -e .[cluster]") from None
        self.ray, self.cpus, self.shared = ray, cpus, shared
        try:
            ray.init(address=address, log_to_driver=False, runtime_env={
                "working_dir": str(REPO), "excludes": LEFT_BEHIND, "env_vars": {"COURSE_COMMIT": commit() or ""}})
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise CourseError(f"No Ray cluster at {address or 'this machine'}: {error}") from error
        gpus = int(ray.cluster_resources().get("GPU", 0) > 0)  # one for each run, where there are some
        self.task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=RETRIES,
                               retry_exceptions=[LostRunError])(run_task)

    def __call__(self, notebook: str, parameters: Mapping[str, Any], folder: Path, cell_seconds: float,
                 environment: Mapping[str, str], stop: threading.Event, dataset: str | None) -> tuple[str, str]:
        """State and message; the run's files are then in ``folder``, but for its checkpoints."""
        given = dict(parameters)
        if str(given.get("MODEL", "")).startswith("/"):  # it travels with the code
            if not Path(given["MODEL"]).is_relative_to(REPO):
                raise CourseError(f"{given['MODEL']}: on a cluster a custom network's file must be in the repository.")
            given["MODEL"] = str(Path(given["MODEL"]).relative_to(REPO))
        ref = self.task.remote(notebook, given, folder, self.shared, cell_seconds,
                               {"OMP_NUM_THREADS": str(self.cpus)}, dataset)
        while not self.ray.wait([ref], timeout=0.5)[0]:
            if stop.is_set():
                self.ray.cancel(ref, force=True)
                return "waiting", ""
        try:
            state, message, files = self.ray.get(ref)
        except LostRunError as error:
            return error.args
        except self.ray.exceptions.RayError as error:
            return "killed", f"after {RETRIES + 1} tries: {str(error).strip().splitlines()[-1]}"
        if files:
            zipfile.ZipFile(io.BytesIO(files)).extractall(folder)
        return state, message
