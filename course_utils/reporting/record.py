"""The record of a run: one JSON file that holds whatever a table or a text says about it; and where a run writes."""
from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from course_utils.runner import processes
from course_utils.training import checkpoint
from course_utils.data.datasets import DATASETS, Dataset
from course_utils.errors import CourseError
from course_utils.evaluation.metrics import Prediction, per_class_accuracy
from course_utils.config import ASSIGNMENTS, Experiment, differing, load, total_epochs
from course_utils.utils import REPO, refusal, write_whole
from course_utils.training.device import Machine, machine_words
from course_utils.training.trainer import Training, best_epoch

Record = dict[str, Any]
FORMAT = 1  # of a record
PLACES = ("DATA_DIR", "OUTPUT_DIR", "MODEL")  # parameters of the notebooks that may name a folder
VERSIONS = ("torch", "accelerate", "numpy", "albumentations")
NUMBER = (int, float)
FORM = {  # of a record: what tables and texts need, and of which types
    "format": int, "sample": bool, "lr": NUMBER, "parameters": int, "seconds": NUMBER, "precision": str, "device": str,
    "memory_format": str, "evaluated": dict, "sha256": str, "data": {"title": str, "sha256": {"test_images": str}},
    "experiment": {"assignment": str, "variant": str, "dataset": str, "epochs": int, "seed": int, "keep": str,
                   "holdout": NUMBER},
    "history": [{"epoch": int, "lr": NUMBER, "train_loss": NUMBER, "train_accuracy": NUMBER, "seconds": NUMBER}],
    "final": {"images": int, "loss": NUMBER, "accuracy": NUMBER, "per_class": dict}, "sessions": [{"machine": str}],
}
FREE = ("seed", "epochs", "split")  # what a published run may choose differently from its variant


def origin() -> dict[str, Any]:
    """Commit, machine and versions: where a run takes place. Holds no names of hosts, users or folders."""
    return {"commit": commit(), "machine": machine_words(),
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}}}


def commit() -> str | None:
    """The repository's commit, with "+" where tracked files differ from it; ``None`` outside a git checkout."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(REPO), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def run_name(exp: Experiment) -> str:
    """Name of a run's folder and files: variant, a network of your own, epochs, split where there is a choice, seed,
    "sample" if it is one.
    """
    network = f"-{Path(exp.model).name.replace('.py:', '-')}" if exp.model_file else ""
    split = f"-{exp.split}" if DATASETS[exp.dataset].tracks else ""
    sample = "-sample" if exp.data == "sample" else ""
    return f"{exp.variant}{network}-{exp.all_epochs}epochs{split}-seed{exp.seed}{sample}"


def run_folder(exp: Experiment, output_dir: str | Path | None = None) -> Path:
    """The folder in which a notebook's run takes place, from now on this process's (see ``folder_of``).

    A full run goes on from the checkpoints it finds there; a smoke run starts afresh and removes its earlier ones.
    Raises ``CourseError`` when the folder cannot be written, or another process is at work there.
    """
    folder = folder_of(exp, output_dir)
    processes.claim(folder)
    if exp.profile == "smoke":
        clear(folder)
    return folder


def folder_of(exp: Experiment, output_dir: str | Path | None = None) -> Path:
    """A run's folder, made and tried: its ``run_name`` under ``output_dir``, else under ``outputs/<assignment>/``.

    Raises ``CourseError`` when it cannot be written.
    """
    folder = (Path(output_dir).expanduser() if output_dir else REPO / "outputs" / exp.assignment) / run_name(exp)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        trial = folder / f".trial-{os.getpid()}"
        trial.touch()
        trial.unlink()
    except OSError as error:
        raise CourseError(f"OUTPUT_DIR {folder} cannot be written: {error.strerror}.") from error
    return folder


def clear(folder: Path) -> None:
    """Remove what a run would go on from, and its record. Raises ``CourseError`` when the disk refuses."""
    parts = (folder, *folder.glob("stage*"))
    checkpoints = [path for part in parts for path in checkpoint.list_checkpoints(part)]
    told = [part / "progress.json" for part in parts]
    try:
        for old in (*checkpoints, *told, folder / "lr_range.json", folder / "record.json"):
            old.unlink(missing_ok=True)
    except OSError as error:
        raise CourseError(f"{folder} cannot be cleared: {error.strerror}.") from error


def make(exp: Experiment, data: Dataset, lr: float, parameters: int, training: Training, prediction: Prediction,
         machine: Machine, held_out: Prediction | None = None) -> Record:
    """The record of a finished run. ``prediction`` is that of the test images, ``held_out`` of plain held-out ones."""
    accuracies = {name: float(value) for name, value in zip(data.classes, per_class_accuracy(prediction))}
    return {
        "format": FORMAT,
        "sample": data.is_sample,
        "experiment": exp.as_dict(),
        "lr": lr,
        "data": {"title": data.title, "sha256": dict(data.sha256)},
        "parameters": parameters,
        "history": training.history,
        "kept_epoch": training.best["epoch"] if training.best else len(training.history),
        "held_out": held_out and {"images": len(held_out.labels), "loss": held_out.loss, "accuracy": held_out.accuracy},
        "final": {"split": "test", "images": len(prediction.labels), "loss": prediction.loss,
                  "accuracy": prediction.accuracy, "per_class": accuracies,
                  "predicted": " ".join(map(str, prediction.predicted)),  # the class of each image, in their order
                  "class_images": np.bincount(prediction.labels, minlength=len(data.classes)).tolist()},
        "seconds": sum(row["seconds"] for row in training.history),
        "precision": machine.precision,
        "device": machine.device.type,
        "memory_format": "channels_last",
        "sessions": training.sessions,
        "evaluated": origin(),
    }


def without_paths(notebook: Path) -> str:
    """The text of an executed notebook without what only this machine knows: paths that papermill noted down."""
    table = json.loads(notebook.read_text(encoding="utf-8"))
    noted = table["metadata"].get("papermill", {})
    for key in ("input_path", "output_path"):
        if key in noted:
            noted[key] = Path(noted[key]).name
    for cell in table["cells"]:  # papermill's injected cell
        if "injected-parameters" in cell["metadata"].get("tags", []):
            named = re.compile(rf'^((?:{"|".join(PLACES)}) = )"(?:/|[A-Za-z]:).*"')
            cell["source"] = [named.sub(r'\1"..."', line) for line in cell["source"]]
    for name in PLACES:
        if re.match("/|[A-Za-z]:", str(noted.get("parameters", {}).get(name))):
            noted["parameters"][name] = "..."
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def write(record: Record, folder: Path) -> Path:
    """Write ``folder/record.json``, sealed, whole or not at all: the end of a run, whose folder is free then.

    Raises ``CourseError`` when the disk refuses.
    """
    path = folder / "record.json"
    try:
        write_whole(path, json.dumps(record | {"sha256": seal(record)}, indent=1) + "\n")
    except OSError as error:
        raise CourseError(f"Could not write {path}: {refusal(error, folder)}. The checkpoints are whole: make room and "
                          "run again.") from error
    processes.release(folder)
    return path


def seal(record: Record) -> str:
    """SHA-256 of all that a record says, however its file is laid out: a changed digit shows. It forbids no forgery."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read(path: Path) -> Record:
    """A record. Raises ``CourseError`` when the file is none, was changed after it was written, or its parts do not
    agree with each other.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CourseError(f"{path} is no record: {error}") from error
    if fault := _misfit(record, FORM):
        raise CourseError(f"{path} is no whole record: {fault}.")
    if seal(record) != record["sha256"]:
        raise CourseError(f"{path} was edited or damaged: it is not what the run wrote (its SHA-256 differs).")
    try:
        _check_agrees(record, path)
        in_words(record)
    except (KeyError, TypeError, IndexError, AttributeError, ValueError, ArithmeticError) as error:
        if isinstance(error, CourseError):
            raise
        raise CourseError(f"{path} is no whole record: {error!r}.") from error
    return record


def _misfit(found: Any, form: Any, where: str = "it") -> str:
    """In words, where ``found`` is not of the ``form``, which is made as ``FORM``; nothing when it is."""
    if isinstance(form, dict):
        if not isinstance(found, dict):
            return f"{where} is no table"
        missing = ", ".join(sorted(form.keys() - found.keys()))
        return f"{where} lacks {missing}" if missing else next(
            filter(None, (_misfit(found[name], part, name) for name, part in form.items())), "")
    if isinstance(form, list):
        if not isinstance(found, list) or not found:
            return f"{where} is {'no list' if found else 'empty'}"
        return next(filter(None, (_misfit(part, form[0], f"a row of its {where}") for part in found)), "")
    fits = isinstance(found, form) and (form is bool or not isinstance(found, bool))
    return "" if fits else f"{where} is {found!r}"


def _check_agrees(record: Record, path: Path) -> None:
    exp, history, final = record["experiment"], record["history"], record["final"]
    wrong = []
    if [row["epoch"] for row in history] != list(range(1, len(history) + 1)) or len(history) > total_epochs(exp):
        wrong.append("the epochs of its history")
    if abs(sum(row["seconds"] for row in history) - record["seconds"]) > 0.01:
        wrong.append("its seconds")
    # Evaluated elsewhere than trained, some images at the border between two classes may tip over.
    alike = all(record["sessions"][-1].get(key) == record["evaluated"].get(key) for key in ("machine", "versions"))
    apart = abs(history[-1].get("test_accuracy", final["accuracy"]) - final["accuracy"])
    averaged = exp.get("test_views", 0)  # then the final accuracy is of several views, that of an epoch of plain images
    if exp["keep"] == "last" and not averaged and apart > (1e-9 if alike else 0.005):
        wrong.append("its final accuracy and its last epoch's")
    last = [row for row in history if row.get("stage") == history[-1].get("stage")]
    if exp["keep"] == "best" and record["kept_epoch"] != len(history) - len(last) + best_epoch(last):
        wrong.append("its kept epoch and its best one")
    weights = final.get("class_images", [1] * len(final["per_class"]))  # older records are of balanced classes
    right = sum(weight * share for weight, share in zip(weights, final["per_class"].values()))
    if abs(right / sum(weights) - final["accuracy"]) > 1e-9:
        wrong.append("its final accuracy and its classes'")
    if wrong:
        raise CourseError(f"{path}: {', '.join(wrong)} do not agree: it was edited or damaged.")


def in_words(record: Record) -> str:
    """Markdown: what the run reached, on which data, how many images and seeds, on which machine."""
    history, final, exp = record["history"], record["final"], record["experiment"]
    per_class = final["per_class"]
    held = record.get("held_out")
    of_stage = " of its last stage" if "stage" in history[-1] else ""
    kept = (f"Epoch {record['kept_epoch']} was kept, the best{of_stage} on held-out images ({exp['split']} split); of "
            f"these, without augmentation, it classifies {held['accuracy']:.2%} correctly. " if held else "")
    views = exp.get("test_views", 0)
    seen = f"on the mean of {views} changed views and the plain test image" if views else "on plain test images"
    best, weakest = max(per_class, key=per_class.get), min(per_class, key=per_class.get)
    return (f"**{record['data']['title']}, one run with seed {exp['seed']}:** {final['accuracy']:.2%} of "
            f"{final['images']:,} test images after {_epochs_in_words(record)}, "
            f"{record['seconds'] / 60:.1f} minutes of training on {record['sessions'][-1]['machine']} in "
            f"{record['precision']}. Peak learning rate {record['lr']:.1e}. {kept}The training loss went from "
            f"{history[0]['train_loss']:.3f} to {history[-1]['train_loss']:.3f}; {seen} the loss ended "
            f"at {final['loss']:.3f}. Easiest class: {best} ({per_class[best]:.1%}); hardest: {weakest} "
            f"({per_class[weakest]:.1%}).")


def _epochs_in_words(record: Record) -> str:
    ran, planned, asked = len(record["history"]), total_epochs(record["experiment"]), asked_epochs(record)
    stopped = "" if ran == planned else f", stopped early of {planned}"
    short = "" if asked in (None, planned) else f" (its variant asks for {asked})"
    return f"{ran} epoch{'s' * (ran > 1)}{stopped}{short}"


def asked_epochs(record: Record) -> int | None:
    """Epochs of all stages that the run's variant asks for now; ``None`` when there is no such variant any more."""
    ran = record["experiment"]
    try:
        return load(ran["assignment"], ran["variant"]).all_epochs
    except CourseError:
        return None


def is_full(record: Record) -> bool:
    """Whether the run was on the real data, with as many epochs as its variant asks for: only then it is a result of
    that variant, and its accuracy counts for an assignment's rules.
    """
    return not record["sample"] and total_epochs(record["experiment"]) == asked_epochs(record)


def variant_of(record: Record) -> Experiment:
    """A run's variant as ``variants.toml`` has it now, with what a published run may choose."""
    ran = record["experiment"]
    return load(ran["assignment"], ran["variant"], **{name: ran[name] for name in FREE if name in ran})


def strays(record: Record) -> list[str]:
    """Settings in which a run differs from its ``variant_of``."""
    return [key for key, *_ in differing(variant_of(record).as_dict(), record["experiment"])]


def results(assignment: str) -> dict[str, Record]:
    """The published records of an assignment by run name; sample runs are refused."""
    found = {path.stem: read(path) for path in sorted((ASSIGNMENTS / assignment / "results").glob("*.json"))}
    for name, record in found.items():
        if record["sample"]:
            raise CourseError(f"{assignment}/results/{name}.json is a run on the sample: not a result.")
    return found
