"""Grading: accuracy from the weights on hidden images, rules by running the network; a table and a page of all."""
import csv
import functools
import hashlib
import hmac
import html
import json
import os
import stat
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from course_utils import plots
from course_utils.classroom.sandbox import Limits, run_sandboxed
from course_utils.classroom.submission import RECORD, WEIGHTS
from course_utils.config import Experiment
from course_utils.data.datasets import Dataset, input_size, load_dataset
from course_utils.errors import CourseError, check_names
from course_utils.reporting.record import Record, read_record
from course_utils.reporting.weights import read_card
from course_utils.utils import atomic_write
from course_utils.variants import list_assignments, load_experiment, read_assignment

LARGEST = 1_000_000_000  # bytes of a submission
LARGEST_RECORD = 1_000_000  # bytes
CLAIMED = ("epochs", "batch_size", "optimizer", "augmentation", "expansion")  # settings that rules are about
SUSPICIOUS = 0.1  # by which a shift of one pixel must not lower the accuracy: who knows the files fails it
PAGE = """<!doctype html><meta charset="utf-8"><title>Grades</title><style>
body {{font: 16px sans-serif; max-width: 60em; margin: auto}}
td, th {{padding: 2px 12px 2px 0; text-align: left}} img {{max-width: 100%}}</style>
<h1>Grades</h1>{parts}"""


@dataclass
class Grade:
    """What was found for one submission."""

    student: str
    assignment: str = ""
    variant: str = ""
    data: str = ""  # which the submission names
    accuracy: float | None = None  # on the hidden images, 0 to 1
    hidden_images: int | None = None
    claimed_accuracy: float | None = None  # in the submitted record, which anyone can write
    parameters: int | None = None
    rules_passed: int | None = None
    rules_failed: int | None = None
    rules: list[tuple[str, str, str]] = field(default_factory=list)  # verdict, rule, what was found
    note: str = ""
    curves: str = ""  # file name of a figure


def grade_all(home: Path, out: Path, key: bytes, limits: Limits, jobs: int = 1) -> list[Grade]:
    """Grade each folder in ``home``; write ``grades.csv`` and ``index.html`` to ``out``. Raises ``CourseError`` when
    there is nothing to grade.
    """
    folders = sorted(path for path in home.iterdir() if path.name[0] != ".") if home.is_dir() else []
    if not folders:
        raise CourseError(f"{home} holds no submissions: a folder for each student (python -m course_utils submit).")
    out.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        grades = list(pool.map(lambda folder: _grade_safely(folder, out, key, limits), folders))
    _write_tables(grades, out)
    return grades


def hidden_images(labels: np.ndarray, images: np.ndarray, key: bytes) -> np.ndarray:
    """Indices of the test images that ``key`` hides: of each class the half whose keyed hash is smallest."""
    ranks = np.array([hmac.digest(key, image.tobytes(), "sha256")[:8] for image in images])
    parts = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return np.sort(np.concatenate([part[np.argsort(ranks[part])][:(len(part) + 1) // 2] for part in parts]))


def _grade_safely(folder: Path, out: Path, key: bytes, limits: Limits) -> Grade:
    """One submission stops no other, whatever it holds."""
    grade = Grade(_printable(folder.name))
    try:
        _grade(grade, folder, out, key, limits)
    except Exception as error:
        grade.note = _printable(error if isinstance(error, CourseError) else f"{type(error).__name__}: {error}")[:500]
    return grade


def _printable(text: object) -> str:
    """Without what a terminal obeys and a file cannot hold."""
    return "".join(character if character.isprintable() else "?" for character in str(text))


def _grade(grade: Grade, folder: Path, out: Path, key: bytes, limits: Limits) -> None:
    _check_files(folder)
    card = read_card(folder / WEIGHTS)
    if not card.keys() >= {"assignment", "variant", "model", "settings", "dataset"}:
        raise CourseError(f"{WEIGHTS} was not written by `python -m course_utils submit`.")
    check_names("assignment", [card["assignment"]], list_assignments())
    if len(card["settings"]) > 10_000:
        raise CourseError("the settings of its network have more than 10,000 characters.")
    grade.assignment, grade.variant = card["assignment"], card["variant"]
    exp = load_experiment(card["assignment"], card["variant"], dataset=card["dataset"])
    claims = _read_claims(grade, folder, out)
    data = _load(exp.dataset, exp.assignment, exp.variant)
    grade.data = data.title
    chosen = _hidden(exp.dataset, exp.assignment, exp.variant, key)
    size, rng = input_size(exp), np.random.default_rng(list(key))
    orders = [rng.permutation(chosen) for _ in range(2)]  # a program must not know the class from the place
    with tempfile.TemporaryDirectory() as scratch:
        program, shown, result = (Path(scratch, name) for name in ("program", "images.npy", "result"))
        run_sandboxed("course_utils.classroom.program", ["export", json.dumps({
            "model": card["model"], "settings": json.loads(card["settings"]), "classes": len(data.classes),
            "size": size})], {folder: "/submission"}, program, limits)
        np.save(shown, np.stack([data.test_images[orders[0]], _disturbed(data.test_images[orders[1]], rng)]))
        run_sandboxed("course_utils.classroom.program", ["judge", json.dumps({
            "assignment": exp.assignment, "variant": exp.variant, "claimed": claims, "size": size,
            "mean": data.mean, "std": data.std})], {program: "/program.pt2", shown: "/images.npy"}, result, limits)
        found = json.loads(result.read_bytes())
    plain, shifted = (float((np.array(predicted) == data.test_labels[order]).mean())
                      for predicted, order in zip(found["predicted"], orders))
    grade.accuracy, grade.hidden_images, grade.parameters = plain, len(chosen), found["parameters"]
    grade.rules = [_verdict(finding, exp, plain, bool(claims)) for finding in found["findings"]]
    verdicts = [verdict for verdict, *_ in grade.rules]
    grade.rules_passed, grade.rules_failed = verdicts.count("passed"), verdicts.count("FAILED")
    if plain - shifted > SUSPICIOUS + 3 * np.sqrt(shifted * (1 - shifted) / len(chosen)):  # and no accident
        grade.note = f"shifted by one pixel, the same images have {shifted:.1%}: does it know the files by heart?"


def _check_files(folder: Path) -> None:
    """Raise ``CourseError`` for links, devices and too much of anything: nothing is read before this."""
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise CourseError("not a folder: unpack archives first.")
    size, weights = 0, folder / WEIGHTS
    for path in (Path(home, name) for home, folders, files in os.walk(folder) for name in (*folders, *files)):
        found = path.lstat()
        if not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)):
            raise CourseError(f"{path.name} is a link or a device, not a file.")
        size += found.st_size
    if size > LARGEST:
        raise CourseError(f"{size / 1e6:,.0f} MB are more than the {LARGEST / 1e6:,.0f} that are read.")
    if not weights.is_file():
        raise CourseError(f"no {WEIGHTS}: hand in what `python -m course_utils submit` writes.")
    with weights.open("rb") as file:
        if int.from_bytes(file.read(8), "little") > LARGEST_RECORD:
            raise CourseError(f"the header of {WEIGHTS} has more than a megabyte.")


def _read_claims(grade: Grade, folder: Path, out: Path) -> dict[str, Any]:
    """Settings of the training from the submitted record, and its curves as a figure; nothing of it is trusted."""
    try:
        if (folder / RECORD).stat().st_size > LARGEST_RECORD:
            return {}
        record: Record = read_record(folder / RECORD)
        if len(record["history"]) > 1000 or len({str(row.get("stage")) for row in record["history"]}) > 20:
            return {}  # the figure would take for ever
        grade.claimed_accuracy = float(record["final"]["accuracy"])
        figure = plots.curves(record["history"], "Curves, as submitted")
        name = hashlib.sha256(folder.name.encode()).hexdigest()[:12] + ".png"
        plots.save_figure(figure, out / name)
        grade.curves = name
        claims = {name: record["experiment"][name] for name in CLAIMED}
        load_experiment(grade.assignment, grade.variant, **claims)  # raises for illegal ones
        return claims
    except Exception:
        return {}  # no readable record: the rules about training stay open


@functools.cache
def _load(dataset: str, assignment: str, variant: str) -> Dataset:
    return load_dataset(load_experiment(assignment, variant, dataset=dataset))


@functools.cache
def _hidden(dataset: str, assignment: str, variant: str, key: bytes) -> np.ndarray:
    data = _load(dataset, assignment, variant)
    return hidden_images(data.test_labels, data.test_images, key)


def _disturbed(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Images (N, H, W, 3), each shifted by one pixel to a random corner, with noise of at most two levels."""
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    shifts = np.array([(0, 0), (0, 2), (2, 0), (2, 2)])[rng.integers(4, size=len(images))]
    moved = np.stack([image[y:y + images.shape[1], x:x + images.shape[2]] for image, (y, x) in zip(padded, shifts)])
    return np.clip(moved + rng.integers(-2, 3, moved.shape), 0, 255).astype(np.uint8)


def _verdict(finding: Mapping[str, Any], exp: Experiment, accuracy: float, is_claimed: bool) -> tuple[str, str, str]:
    rule, found, passed = finding["rule"], finding["found"], finding["passed"]
    if rule.endswith("of all test images"):
        passed = accuracy >= read_assignment(exp.assignment)["rules"]["accuracy_at_least"]
        found = f"{accuracy:.2%} of the hidden images"
    elif rule.startswith(("augmentation", "batch size", "optimizer")) or rule.endswith("epochs"):
        found, passed = (f"{found}, as the record says", passed) if is_claimed else ("no record", None)
    words = {True: "earned", False: "not earned"} if finding["extra"] else {True: "passed", False: "FAILED"}
    return words.get(passed, "open"), rule, _printable(found)


def _write_tables(grades: Sequence[Grade], out: Path) -> None:
    """``grades.csv``, where no name can be a formula, and ``index.html`` with the same columns, rules and curves."""
    rows, sections = [], []
    for grade in grades:
        row = {name: f"{value:.4f}" if isinstance(value, float) else "" if value is None else str(value)
               for name, value in asdict(grade).items() if name not in ("rules", "curves")}
        rows.append({name: "'" * text.lstrip().startswith(tuple("=+-@＝＋－＠")) + text for name, text in row.items()})
        shown = [*row.items(), *((verdict, f"{rule}: {found}") for verdict, rule, found in grade.rules)]
        cells = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in shown if text)
        figure = f'<img src="{grade.curves}" alt="curves, as submitted">' if grade.curves else ""
        sections.append(f"<h2>{html.escape(grade.student)}</h2><table>{cells}</table>{figure}")
    atomic_write(out / "index.html", PAGE.format(parts="".join(sections)))
    with (out / "grades.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
