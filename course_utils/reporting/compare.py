"""Two runs side by side: what differed in the experiment, how the curves went, and which images changed."""
from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from course_utils import plots
from course_utils.reporting import record, tables
from course_utils.data.datasets import Dataset, open_dataset
from course_utils.errors import CourseError, unknown
from course_utils.config import ASSIGNMENTS, differing
from course_utils.reporting.record import Record

SHOWN = 40  # changed images in the figure
Named = tuple[str, Record]


def find(name: str) -> Named:
    """A record by its file, its run's folder, or the name of a published run; and how the run is called.

    Two assignments may have a run of the same name: then it is ``ASSIGNMENT/NAME``.
    """
    path = Path(name).resolve()
    if path.is_dir():
        path /= "record.json"
    if not path.is_file():
        published = {f"{found.parents[1].name}/{found.stem}": found for found in ASSIGNMENTS.glob("*/results/*.json")}
        fitting = [key for key in published if name in (key, key.partition("/")[2])]
        if len(fitting) != 1:
            raise unknown("run (neither a folder, a record, nor one published run)", name, fitting or published)
        path = published[fitting[0]]
    return path.parent.name if path.name == "record.json" else path.stem, record.read(path)


def told_apart(one: Named, other: Named) -> tuple[Named, Named]:
    """Both, numbered where they have one name."""
    if one[0] != other[0]:
        return one, other
    return (f"{one[0]} (1)", one[1]), (f"{other[0]} (2)", other[1])


def compare(one: Named, other: Named) -> str:
    """Plain text: settings that differ, results, and accuracy by class, the largest difference first."""
    (name, a), (rival, b) = one, other
    head = ("", name, rival)
    blocks = [[head, *_settings(a, b)], [head, *_results(a, b)]]
    if a["final"]["per_class"].keys() == b["final"]["per_class"].keys():
        blocks.append([(*head, "difference"), *_classes(a, b)])
    return "\n\n".join("\n".join(tables.aligned(rows)) for rows in blocks)


def _settings(a: Record, b: Record) -> list[tuple[str, str, str]]:
    rows = [(key, _short(ours), _short(theirs)) for key, ours, theirs in differing(a["experiment"], b["experiment"])]
    return rows or [("same experiment", "", "")]


def _short(value: Any) -> str:
    if isinstance(value, list) and value and isinstance(value[0], Mapping):
        return ", ".join(str(part.get("name", part)) for part in value)
    return str(value)


def _results(a: Record, b: Record) -> list[tuple[str, str, str]]:
    def row(label: str, text: Any) -> tuple[str, str, str]:
        return label, text(a), text(b)

    return [row("data", lambda r: r["data"]["title"]), row("parameters", lambda r: f"{r['parameters']:,}"),
            row("epochs", lambda r: f"{len(r['history'])}"), row("rate", lambda r: f"{r['lr']:.1e}"),
            row("test accuracy", lambda r: f"{r['final']['accuracy']:.2%}"),
            row("test loss", lambda r: f"{r['final']['loss']:.4f}"),
            row("minutes", lambda r: f"{r['seconds'] / 60:.1f}"),
            row("machine", lambda r: f"{r['sessions'][-1]['machine']}, {r['precision']}"),
            row("commit", lambda r: (r["sessions"][-1].get("commit") or "–")[:8])]


def _classes(a: Record, b: Record) -> list[tuple[str, str, str, str]]:
    ours, theirs = a["final"]["per_class"], b["final"]["per_class"]
    order = sorted(ours, key=lambda name: -abs(ours[name] - theirs[name]))
    return [(name, f"{ours[name]:.1%}", f"{theirs[name]:.1%}", f"{100 * (theirs[name] - ours[name]):+.1f}")
            for name in order]


def both_curves(one: Named, other: Named) -> plots.Figure:
    """Both runs' loss and accuracy over epochs."""
    histories = {name: run["history"] for name, run in (one, other)}
    return plots.comparison(histories, " and ".join(histories))


def judged_on(one: Named, other: Named, root: Path | None = None) -> Dataset:
    """The data set on whose test images both runs were judged, opened. Raises ``CourseError`` when there is none."""
    (_, a), (_, b) = one, other
    if a["data"]["sha256"]["test_images"] != b["data"]["sha256"]["test_images"]:
        raise CourseError("They were judged on different images, so that none of these can have changed.")
    exp = a["experiment"]
    data = open_dataset(exp["dataset"], root, exp["data"], exp["seed"], exp["train_images"], exp["test_images"])
    if data.sha256["test_images"] != a["data"]["sha256"]["test_images"]:
        raise CourseError(f"The {data.title} here is not the one that the runs were judged on.")
    return data


def predictions(run: Record, data: Dataset) -> np.ndarray:
    """int64 (N,): the class that a run gave each test image, checked against the accuracy of its record."""
    found = np.array(run["final"]["predicted"].split(), np.int64)
    if len(found) != len(data.test_labels) or not np.isclose((found == data.test_labels).mean(),
                                                             run["final"]["accuracy"], atol=1e-9):
        raise CourseError(f"A record of {len(found)} predictions does not fit {data.title}.")
    return found


def changed(one: Named, other: Named, data: Dataset) -> tuple[str, plots.Figure]:
    """In words, how many images only one run classifies correctly and whether that may be chance; and a figure of some.

    By McNemar's test (1947), exact: were both equally good, either run would win such an image with probability 1/2.
    """
    (name, a), (rival, b) = one, other
    truth, ours, theirs = data.test_labels, predictions(a, data), predictions(b, data)
    right, rival_right = ours == truth, theirs == truth
    won, lost = np.flatnonzero(rival_right & ~right), np.flatnonzero(right & ~rival_right)
    text = (f"Of {len(truth):,} test images both classify {(right & rival_right).sum():,} correctly, only {name} "
            f"{len(lost):,}, only {rival} {len(won):,}, neither {(~right & ~rival_right).sum():,}.\nWere both equally "
            f"good, shares at least so uneven would come by chance with p = {mcnemar(len(won), len(lost)):.2g} "
            "(McNemar's exact test).")
    half = SHOWN // 2
    chosen = np.concatenate([won[:half], lost[:half]])
    names = [name if len(name) < 20 else f"{name[:8]}…{name[-9:]}" for name in data.classes]
    titles = [f"{names[truth[k]]}\n{names[ours[k]]}\n{names[theirs[k]]}" for k in chosen]
    title = f"True class, then as named by {name} and by {rival}; {data.title}, {len(chosen)} of {len(won) + len(lost)}"
    return text, plots.image_grid(data.test_images[chosen], titles, 10, title)


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact p-value of ``won`` against ``lost`` images, 0 to 1."""
    total = won + lost
    tail = sum(math.comb(total, k) for k in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2**total)
