"""The record of a run: one JSON file with everything that tables and texts say about it."""
import hashlib
import json
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
from course_utils.utils import REPO, atomic_write, disk_error
from course_utils.variants import load_experiment

Record = dict[str, Any]
FORMAT = 2  # of a record; 1: the first edition's, read through the names below
RENAMED = {"passes": "passes_per_epoch", "keep": "select_epoch", "test_side": "test_image_size",
           "test_views": "tta_views", "range_test_steps": "lr_finder_steps"}
RENAMED_MODELS = {"dilated_net": "best_net.py:DilatedNet", "sign_net": "best_net.py:SignNet",
                  "residual_net": "best_net.py:ResidualNet"}
PACKAGES = ("torch", "torchvision", "numpy", "albumentations")
ALLOWED_OVERRIDES = ("seed", "epochs", "split")  # what a published run may choose differently from its variant


def environment_info() -> dict[str, Any]:
    """Commit, machine, threads and versions of this process; no names of hosts, users or folders."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {"commit": commit(), "machine": describe_machine(), "threads": torch.get_num_threads(),
            "versions": versions}


def commit() -> str | None:
    """The repository's commit, with "+" when tracked files differ from it.

    Outside of its git checkout: the environment variable COURSE_COMMIT, which is set where the files were compared with
    that commit (``benchmarks/gpu_machine``), else ``None``.
    """
    if not (REPO / ".git").exists():  # perhaps inside another repository, whose commit says nothing
        return os.environ.get("COURSE_COMMIT") or None
    command = ["git", "-C", str(REPO), "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def make_record(exp: Experiment, data: Dataset, lr: float, parameters: int, training: Training, prediction: Prediction,
                precision: str, device: torch.device, validation: Prediction | None = None) -> Record:
    """The record of a finished run. ``prediction``: test images; ``validation``: plain held-out images."""
    accuracies = {name: float(value) for name, value in zip(data.classes, per_class_accuracy(prediction))}
    return {
        "format": FORMAT,
        "synthetic": data.is_synthetic,
        "experiment": exp.as_dict(),
        "lr": lr,
        "data": {"title": data.title, "sha256": dict(data.sha256)},
        "parameters": parameters,
        "history": training.history,
        "kept_epoch": training.best["epoch"] if training.best else len(training.history),
        "validation": validation and {"images": len(validation.labels), "loss": validation.loss,
                                      "accuracy": validation.accuracy},
        "final": {"split": "test", "images": len(prediction.labels), "loss": prediction.loss,
                  "accuracy": prediction.accuracy, "per_class": accuracies,
                  "predicted": " ".join(map(str, prediction.predicted)),  # the class of each image, in order
                  "class_images": np.bincount(prediction.labels, minlength=len(data.classes)).tolist()},
        "seconds": sum(row["seconds"] for row in training.history),
        "precision": precision,
        "device": device.type,
        "memory_format": training.sessions[-1].get("memory_format", "channels_last"),
        "sessions": training.sessions,
        "evaluated": environment_info(),
    }


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
    """A record, under today's names. Raises ``CourseError`` when the file is none, was changed after it was written, or
    contradicts itself.
    """
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        changed = content_hash(record) != record.get("sha256")
    except (OSError, ValueError, AttributeError, TypeError) as error:
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


def _upgrade(record: Record) -> Record:
    """A record of the first edition under today's names."""
    if record.get("format") != 1:
        return record
    settings = {RENAMED.get(name, name): value for name, value in record["experiment"].items()}
    settings["stages"] = [{RENAMED.get(name, name): value for name, value in stage.items()}
                          for stage in settings.get("stages", ())]
    settings["model"] = RENAMED_MODELS.get(settings["model"], settings["model"])
    settings["data"] = "synthetic" if settings.get("data") == "sample" else settings.get("data", "real")
    history = record["history"]
    data = record["data"] | {"title": record["data"]["title"].replace("labelled", "labeled")}
    return record | {"experiment": settings, "data": data, "synthetic": record["sample"],
                     "validation": record.get("held_out"), "kept_epoch": record.get("kept_epoch", len(history))}


def _contradictions(record: Record) -> list[str]:
    exp, history, final = record["experiment"], record["history"], record["final"]
    wrong = []
    if [row["epoch"] for row in history] != list(range(1, len(history) + 1)) or len(history) > total_epochs(exp):
        wrong.append("the epochs of its history")
    if not abs(sum(row["seconds"] for row in history) - record["seconds"]) <= 0.01 or min(
            row["seconds"] for row in history) < 0:
        wrong.append("its seconds")
    # A few images between two classes may change where numbers are added in another order: on another machine, with
    # another number of threads, on a GPU always.
    same = record["device"] == "cpu" and all(record["sessions"][-1].get(key) == record["evaluated"].get(key)
                                             for key in ("machine", "versions", "threads"))
    difference = abs(history[-1].get("test_accuracy", final["accuracy"]) - final["accuracy"])
    averaged = exp.get("tta_views", 0)  # then the final accuracy is of several views, an epoch's of plain images
    if exp["select_epoch"] == "last" and not averaged and difference > (1e-9 if same else 0.005):
        wrong.append("its final accuracy and its last epoch's")
    last = [row for row in history if row.get("stage") == history[-1].get("stage")]
    if exp["select_epoch"] == "best" and record["kept_epoch"] != len(history) - len(last) + best_epoch(last):
        wrong.append("its kept epoch and its best one")
    weights = final.get("class_images", [1] * len(final["per_class"]))  # older records are of balanced classes
    correct = sum(weight * share for weight, share in zip(weights, final["per_class"].values()))
    if not abs(correct / sum(weights) - final["accuracy"]) <= 1e-9 or not all(
            0 <= share <= 1 for share in (final["accuracy"], *final["per_class"].values())):
        wrong.append("its final accuracy and its classes'")
    predicted = [int(number) for number in final["predicted"].split()]
    if len(predicted) != final["images"] or not set(predicted) <= set(range(len(final["per_class"]))):
        wrong.append("its predictions and its images")
    elif "class_images" in final:  # of a class at least as many were predicted as were right
        right = [weight * share for weight, share in zip(weights, final["per_class"].values())]
        if (np.bincount(predicted, minlength=len(right)) < np.round(right)).any():
            wrong.append("its predictions and its classes' accuracies")
    return wrong


def is_published_data(record: Record) -> bool:
    """Whether the run used the arrays whose SHA-256 ``data/datasets.toml`` names."""
    info = DATASETS.get(record["experiment"]["dataset"])
    return info is not None and record["data"]["sha256"] == info.sha256


def configured_epochs(record: Record) -> int | None:
    """Epochs of all stages of the run's variant as it is now; ``None`` when the variant no longer exists."""
    ran = record["experiment"]
    try:
        return load_experiment(ran["assignment"], ran["variant"]).all_epochs
    except CourseError:
        return None


def is_full_length(record: Record) -> bool:
    """Whether the run was on the published data with all epochs of its variant: only then it is its result."""
    complete = total_epochs(record["experiment"]) == configured_epochs(record)
    return complete and not record["synthetic"] and is_published_data(record)


def variant_of(record: Record) -> Experiment:
    """A run's variant as ``variants.toml`` has it now, with the overrides that a published run may have."""
    ran = record["experiment"]
    overrides = {name: ran[name] for name in ALLOWED_OVERRIDES if name in ran}
    return load_experiment(ran["assignment"], ran["variant"], **overrides)


def changed_settings(record: Record) -> list[str]:
    """Settings in which a run differs from its ``variant_of``."""
    return [key for key, *_ in config_differences(variant_of(record).as_dict(), record["experiment"])]


def published_records(assignment: str) -> dict[str, Record]:
    """The published records of an assignment by run name. Raises ``CourseError`` for one on synthetic data."""
    found = {path.stem: read_record(path) for path in sorted((ASSIGNMENTS / assignment / "results").glob("*.json"))}
    for name, record in found.items():
        if record["synthetic"]:
            raise CourseError(f"{assignment}/results/{name}.json is a run on synthetic data: not a result.")
    return found
