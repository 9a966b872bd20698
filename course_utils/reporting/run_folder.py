"""The folder of a run: its name, its lock, and clearing it."""
import os
from pathlib import Path

from course_utils.config import Experiment
from course_utils.data.info import DATASETS
from course_utils.errors import CourseError
from course_utils.reporting.lock import lock_folder
from course_utils.training import checkpoint
from course_utils.utils import REPO
from course_utils.variants import load_experiment


def run_name(exp: Experiment) -> str:
    """Name of a run's folder and files: variant, custom network, epochs, split where there is a choice, seed."""
    usual = exp.model_file and load_experiment(exp.assignment, exp.variant)
    custom = exp.model_file and exp.as_dict()["model"] != usual.as_dict()["model"]
    network = f"-{Path(exp.model).name.replace('.py:', '-')}" if custom else ""
    split = f"-{exp.split}" if DATASETS[exp.dataset].has_tracks else ""
    synthetic = "-synthetic" if exp.data == "synthetic" else ""
    return f"{exp.variant}{network}-{exp.all_epochs}epochs{split}-seed{exp.seed}{synthetic}"


def folder_of(exp: Experiment, output_dir: str | Path | None = None) -> Path:
    """A run's folder, created: its ``run_name`` under ``output_dir``, else under ``outputs/<assignment>/``.

    Raises ``CourseError`` when it cannot be written.
    """
    folder = (Path(output_dir).expanduser() if output_dir else REPO / "outputs" / exp.assignment) / run_name(exp)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CourseError(f"OUTPUT_DIR {folder} cannot be written: {error.strerror}.") from error
    return folder


def open_run_folder(exp: Experiment, output_dir: str | Path | None = None) -> Path:
    """The folder of a notebook's run (``folder_of``), locked by this process until its record is written.

    A smoke run removes earlier checkpoints there, every run those that a killed one left half-written. Raises
    ``CourseError`` also when another process uses the folder.
    """
    folder = folder_of(exp, output_dir)
    lock_folder(folder)
    for partial in folder.rglob(".epoch-*.partial-*"):
        partial.unlink(missing_ok=True)
    if exp.profile == "smoke":
        reset(folder)
    return folder


def reset(folder: Path) -> None:
    """Remove checkpoints and record of a run. Raises ``CourseError`` when the disk refuses."""
    parts = (folder, *folder.glob("stage*"))
    old = [path for part in parts for path in (*checkpoint.list_checkpoints(part), part / "progress.json")]
    try:
        for path in (*old, folder / "lr_range.json", folder / "record.json"):
            path.unlink(missing_ok=True)
    except OSError as error:
        raise CourseError(f"{folder} cannot be cleared: {error.strerror}.") from error
