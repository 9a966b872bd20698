"""The record of a run: one JSON file with everything that tables and texts say about it."""
import contextlib
import hashlib
import json
import math
import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from course_utils.config import ASSIGNMENTS, Experiment, config_differences, total_epochs
from course_utils.data.datasets import Dataset
from course_utils.data.info import DATASETS
from course_utils.errors import CourseError
from course_utils.evaluation.metrics import Prediction, per_class_accuracy
from course_utils.reporting.lock import release_folder
from course_utils.training.device import describe_machine
from course_utils.training.trainer import Training, best_epoch
from course_utils.utils import REPO, atomic_write, disk_error, number_order
from course_utils.variants import build_transforms, load_experiment

Record = dict[str, Any]
FORMAT = 2  # of a record; 1: the first edition's, read through the names below
RENAMED = {"passes": "passes_per_epoch", "keep": "select_epoch", "test_side": "test_image_size",
           "test_views": "tta_views", "range_test_steps": "lr_finder_steps"}
PACKAGES = ("torch", "torchvision", "numpy", "albumentations")


def environment_info() -> dict[str, Any]:
    """Commit, machine, threads and versions of this process; no names of hosts, users or folders."""
    versions = {"python": platform.python_version()} | dict.fromkeys(PACKAGES)
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return {"commit": commit(), "machine": describe_machine(), "threads": torch.get_num_threads(),
            "versions": versions}


def commit() -> str | None:
    """The repository's commit, with "+" when tracked files differ from it; ``None``: unknown. Without a git checkout
    the environment variable COURSE_COMMIT says it, where files were compared with it (``benchmarks/gpu_machine``).
    """
    command = ["git", f"--git-dir={REPO / '.git'}", f"--work-tree={REPO}",  # not a repository around this one
               "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("COURSE_COMMIT") or None


def make_record(exp: Experiment, data: Dataset, lr: float, parameters: int, training: Training, prediction: Prediction,
                precision: str, device: torch.device, validation: Prediction | None = None) -> Record:
    """The record of a finished run. ``prediction``: test images; ``validation``: plain held-out images."""
    accuracies = {name: float(value) for name, value in zip(data.classes, per_class_accuracy(prediction))}
    return {
        "format": FORMAT, "synthetic": data.is_synthetic, "experiment": exp.as_dict(), "lr": lr,
        "data": {"title": data.title, "sha256": dict(data.sha256)}, "parameters": parameters,
        "history": training.history,
        "kept_epoch": training.best["epoch"] if training.best else len(training.history),
        "validation": validation and {"images": len(validation.labels), "loss": validation.loss,
                                      "accuracy": validation.accuracy},
        "final": {"split": "test", "images": len(prediction.labels), "loss": prediction.loss,
                  "accuracy": prediction.accuracy, "per_class": accuracies,
                  "predicted": " ".join(map(str, prediction.predicted)),  # the class of each image, in order
                  "class_images": np.bincount(prediction.labels, minlength=len(data.classes)).tolist()},
        "seconds": sum(row["seconds"] for row in training.history), "precision": precision, "device": device.type,
        "memory_format": training.sessions[-1].get("memory_format", "channels_last"),
        "sessions": training.sessions, "evaluated": environment_info()}


def write_record(record: Record, folder: Path) -> Path:
    """Write ``folder/record.json`` with its hash, and release the folder. Raises ``CourseError``."""
    path = folder / "record.json"
    try:
        atomic_write(path, json.dumps(record | {"sha256": content_hash(record)}, indent=1) + "\n")
    except OSError as error:
        raise CourseError(f"Could not write {path}: {disk_error(error, folder)}. The checkpoints are intact: free some "
                          "space and run again.") from error
    release_folder(folder)
    return path


def content_hash(record: Record) -> str:
    """SHA-256 of the content, independent of the file's layout. Detects accidental edits, not deliberate forgery."""
    rest = {key: value for key, value in record.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_record(path: Path) -> Record:
    """A record, under today's names. Raises ``CourseError`` when it is none, was edited, or contradicts itself."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_unique, parse_constant=_refuse)
        changed = content_hash(record) != record.get("sha256")
    except (OSError, ValueError, AttributeError, TypeError, RecursionError) as error:
        raise CourseError(f"{path} is not a record: {error}") from error
    if changed:
        raise CourseError(f"{path} was edited or damaged: it is not what the run wrote (its SHA-256 differs).")
    try:
        record = _upgrade(record)
        contradictions = _contradictions(record)
    except (LookupError, TypeError, AttributeError, ValueError, ArithmeticError) as error:
        raise CourseError(f"{path} is not a complete record: {error!r}.") from error
    if contradictions:
        raise CourseError(f"{path}: {', '.join(contradictions)} contradict each other: it was edited or damaged.")
    return record


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(table := dict(pairs)) < len(pairs):
        raise ValueError("a key occurs twice")
    return table


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")


def _upgrade(record: Record) -> Record:
    """A record of the first edition under today's names."""
    def renamed(settings: dict[str, Any]) -> dict[str, Any]:
        return {RENAMED.get(name, name): value for name, value in settings.items()}

    if record.get("format") != 1:
        return record
    settings = renamed(record["experiment"])
    settings |= {"stages": [renamed(stage) for stage in settings["stages"]],
                 "data": "synthetic" if settings["data"] == "sample" else settings["data"]}
    data = record["data"] | {"title": record["data"]["title"].replace("labelled", "labeled")}
    return record | {"experiment": settings, "data": data, "synthetic": record["sample"],
                     "validation": record.get("held_out")}


def _contradictions(record: Record) -> list[str]:
    exp, history, final = record["experiment"], record["history"], record["final"]
    Experiment(**build_transforms(exp))  # raises for settings that cannot be
    numbers = [record["lr"], record["seconds"], record["parameters"], final["loss"], final["accuracy"],
               *(value for row in history for value in row.values())]
    shares = [value for row in (*history, record["validation"] or {}) for name, value in row.items()
              if name.endswith("accuracy")]
    epochs, seconds = [row["epoch"] for row in history], [row["seconds"] for row in history]
    # A few images between two classes may change where numbers are added in another order: on another machine, with
    # another number of threads, on a GPU always.
    same = record["device"] == "cpu" and all(record["sessions"][-1].get(key) == record["evaluated"].get(key)
                                             for key in ("machine", "versions", "threads"))
    # With test-time augmentation the final accuracy is of several views, an epoch's of plain images.
    compared = exp["select_epoch"] == "last" and not exp["tta_views"] and "test_accuracy" in history[-1]
    last = [row for row in history if row.get("stage") == history[-1].get("stage")]
    accuracies, images = np.array(list(final["per_class"].values())), np.array(final["class_images"])
    predicted = np.array(final["predicted"].split(), np.int64)
    known = predicted[(predicted >= 0) & (predicted < len(images))]
    counts = np.bincount(known, minlength=len(images))  # of each class
    wrong = {
        "the epochs of its history": epochs != list(range(1, len(epochs) + 1)) or len(epochs) > total_epochs(exp),
        "its seconds": not math.isclose(sum(seconds), record["seconds"], abs_tol=0.01) or min(seconds) < 0,
        "its final accuracy and its last epoch's": compared and not math.isclose(
            history[-1]["test_accuracy"], final["accuracy"], rel_tol=0, abs_tol=1e-9 if same else 0.005),
        "its kept epoch and its history": record["kept_epoch"] != len(history) - len(last) + (
            best_epoch(last) if exp["select_epoch"] == "best" else len(last)),
        "its final accuracy and its classes'": min(accuracies) < 0 or max(accuracies) > 1 or not math.isclose(
            np.average(accuracies, weights=images), final["accuracy"], rel_tol=0, abs_tol=1e-9),
        "its predictions and its images": not counts.sum() == len(predicted) == final["images"] == images.sum(),
        "its numbers and what they are": not isinstance(record["data"]["title"], str) or not all(
            type(number) in (int, float) for number in numbers) or min(shares) < 0 or max(shares) > 1,
        "its predictions and its classes' accuracies": (counts < np.round(images * accuracies)).any()}
    return [what for what, is_wrong in wrong.items() if is_wrong]


def is_published_data(record: Record) -> bool:
    """Whether the run used the arrays and classes that ``data/datasets.toml`` names."""
    info = DATASETS.get(record["experiment"]["dataset"])
    return (info is not None and record["data"]["sha256"] == info.sha256 and not record["synthetic"]
            and tuple(record["final"]["per_class"]) == info.classes)


def configured_epochs(record: Record) -> int | None:
    """Epochs of all stages of the run's variant as it is now; ``None`` when the variant no longer exists."""
    ran = record["experiment"]
    try:
        return load_experiment(ran["assignment"], ran["variant"]).all_epochs
    except CourseError:
        return None


def is_full_length(record: Record) -> bool:
    """Whether the run was on the published data with all epochs of its variant: only then it is its result."""
    return is_published_data(record) and total_epochs(record["experiment"]) == configured_epochs(record)


def variant_of(record: Record) -> Experiment:
    """A run's variant as ``variants.toml`` has it now, with the seed, epochs and split that a run may choose."""
    ran = record["experiment"]
    overrides = {name: ran[name] for name in ("seed", "epochs", "split")}
    return load_experiment(ran["assignment"], ran["variant"], **overrides)


def changed_settings(record: Record) -> list[str]:
    """Settings in which a run differs from its ``variant_of``."""
    return [key for key, *_ in config_differences(variant_of(record).as_dict(), record["experiment"])]


def published_records(assignment: str) -> dict[str, Record]:
    """The published records of an assignment by run name. Raises ``CourseError`` for one on synthetic data."""
    paths = sorted((ASSIGNMENTS / assignment / "results").glob("*.json"), key=number_order)
    found = {path.stem: read_record(path) for path in paths}
    for name, record in found.items():
        if record["synthetic"]:
            raise CourseError(f"{assignment}/results/{name}.json is a run on synthetic data: not a result.")
    return found
