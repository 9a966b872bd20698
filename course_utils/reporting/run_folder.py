"""The folder of a run: its name, its lock, and clearing it."""
import tempfile
import zlib
from pathlib import Path

from course_utils.config import Experiment, config_differences
from course_utils.data.info import DATASETS
from course_utils.errors import CourseError
from course_utils.reporting.lock import lock_folder
from course_utils.training import checkpoint
from course_utils.utils import REPO
from course_utils.variants import load_experiment


def run_name(exp: Experiment) -> str:
    """Name of a run's folder and files: variant, custom network, other data set, epochs, split where there is a choice,
    seed; of a smoke or mini run also a number for its other settings, as it does not keep an earlier run in its folder.
    """
    network, variant = Path(exp.model).name, load_experiment(exp.assignment, exp.variant)
    custom = exp.model_file and network != Path(variant.model).name
    network = f"-{network.replace('.py:', '-')}" if custom else ""
    network += f"-{exp.dataset}" * (exp.dataset != variant.dataset)
    split = f"-{exp.split}" if DATASETS[exp.dataset].has_tracks else ""
    kind = "-synthetic" if exp.data == "synthetic" else f"-{exp.profile}" * (exp.profile != "full")
    if exp.profile in ("smoke", "mini"):
        usual = load_experiment(exp.assignment, exp.variant, exp.profile, seed=exp.seed, epochs=exp.epochs,
                                split=exp.split, dataset=exp.dataset)
        other = [row for row in config_differences(usual.as_dict(), exp.as_dict()) if not row[0].startswith("model")]
        kind += f"-{zlib.crc32(str(other).encode()):08x}" if other else ""
    return f"{exp.variant}{network}-{exp.all_epochs}epochs{split}-seed{exp.seed}{kind}"


def folder_of(exp: Experiment, output_dir: str | Path | None = None) -> Path:
    """A run's folder, created: its ``run_name`` under ``output_dir`` (default: ``outputs/<assignment>/``). Raises
    ``CourseError`` when it cannot be written.
    """
    folder = (Path(output_dir).expanduser() if output_dir else REPO / "outputs" / exp.assignment) / run_name(exp)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise CourseError(f"OUTPUT_DIR {folder} cannot be written: {error.strerror}.") from error
    return folder


def open_run_folder(exp: Experiment, output_dir: str | Path | None = None) -> Path:
    """``folder_of`` a notebook's run, locked until its record is written. Raises ``CourseError`` when it is in use.
    Removes half-written checkpoints that a killed run left there, and for a smoke or mini run all earlier ones.
    """
    folder = folder_of(exp, output_dir)
    lock_folder(folder)
    for partial in folder.rglob(".epoch-*.partial-*"):
        partial.unlink(missing_ok=True)
    if exp.profile in ("smoke", "mini"):
        reset(folder)
    return folder


def reset(folder: Path) -> None:
    """Remove checkpoints and record of a run. Raises ``OSError``."""
    old = [folder / "lr_range.json", folder / "record.json"]
    for part in (folder, *folder.glob("stage*")):
        old += [*checkpoint.list_checkpoints(part), part / "progress.json", *part.glob("tensorboard/*")]
    for path in old:
        path.unlink(missing_ok=True)
