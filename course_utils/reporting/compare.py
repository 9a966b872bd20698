"""Two runs side by side: settings, results, curves, and the images that only one of them classifies correctly."""
import math
from pathlib import Path

import numpy as np

from course_utils import plots
from course_utils.config import ASSIGNMENTS, config_differences
from course_utils.data.datasets import Dataset, open_dataset
from course_utils.errors import CourseError, unknown_name_error
from course_utils.reporting.record import Record, read_record
from course_utils.utils import align_columns

SHOWN = 40  # changed images in the figure
NamedRecord = tuple[str, Record]


def find_record(name: str) -> NamedRecord:
    """A record and its name, by file, run folder, or published run: NAME, or ASSIGNMENT/NAME where two have it."""
    path = Path(name).resolve()
    if path.is_dir():
        path /= "record.json"
    if not path.is_file():
        published = {f"{found.parents[1].name}/{found.stem}": found for found in ASSIGNMENTS.glob("*/results/*.json")}
        matches = [key for key in published if name in (key, key.partition("/")[2])]
        if len(matches) != 1:
            kind = "run (neither a folder, a record, nor one published run)"
            raise unknown_name_error(kind, name, matches or published)
        path = published[matches[0]]
    return path.parent.name if path.name == "record.json" else path.stem, read_record(path)


def compare(one: NamedRecord, other: NamedRecord) -> str:
    """Plain text: settings that differ, results, and accuracy by class, the largest difference first."""
    (name, a), (rival, b) = one, other
    head = ("", name, rival)
    settings = [tuple(map(str, row)) for row in config_differences(a["experiment"], b["experiment"])]
    labels = ("data", "parameters", "epochs", "learning rate", "test accuracy", "test loss", "minutes", "machine")
    facts = [(r["data"]["title"], f"{r['parameters']:,}", f"{len(r['history'])}", f"{r['lr']:.1e}",
              f"{r['final']['accuracy']:.2%}", f"{r['final']['loss']:.4f}", f"{r['seconds'] / 60:.1f}",
              f"{r['sessions'][-1]['machine']}, {r['precision']}") for r in (a, b)]
    blocks = [[head, *(settings or [("same experiment", "", "")])], [head, *zip(labels, *facts)]]
    ours, theirs = a["final"]["per_class"], b["final"]["per_class"]
    if ours.keys() == theirs.keys():
        gain = {key: theirs[key] - ours[key] for key in ours}
        blocks.append([(*head, "difference")] + [
            (key, f"{ours[key]:.1%}", f"{theirs[key]:.1%}", f"{100 * gain[key]:+.1f}")
            for key in sorted(gain, key=lambda key: -abs(gain[key]))])
    return "\n\n".join("\n".join(align_columns(rows)) for rows in blocks)


def plot_curves(one: NamedRecord, other: NamedRecord) -> plots.Figure:
    """Loss and accuracy of both runs over epochs."""
    (name, a), (rival, b) = one, other
    histories = {name: a["history"], rival if rival != name else f"{name} (2)": b["history"]}
    return plots.comparison(histories, " and ".join(histories))


def open_test_set(one: NamedRecord, other: NamedRecord, root: Path | None = None) -> Dataset:
    """The data set on whose test images both runs were evaluated. Raises ``CourseError`` when there is none."""
    (_, a), (_, b) = one, other
    if any(a[part][key] != b[part][key] for part, key in (("data", "sha256"), ("final", "images"))):
        raise CourseError("The two runs were evaluated on different test images.")
    exp = a["experiment"]
    data = open_dataset(exp["dataset"], root, exp["data"], exp["seed"], exp["train_images"], exp["test_images"])
    if data.sha256["test_images"] != a["data"]["sha256"]["test_images"]:
        raise CourseError(f"The {data.title} here is not the one on which the runs were evaluated.")
    return data


def changed_predictions(one: NamedRecord, other: NamedRecord, data: Dataset) -> tuple[str, plots.Figure]:
    """How many images only one run classifies correctly, whether that may be chance by McNemar's exact test (1947: if
    both were equally good, each would win such an image with probability 1/2), and a figure of some.
    """
    (name, a), (rival, b) = one, other
    truth = data.test_labels
    ours, theirs = (np.array(run["final"]["predicted"].split(), np.int64) for run in (a, b))
    correct, rival_correct = ours == truth, theirs == truth
    won, lost = np.flatnonzero(rival_correct & ~correct), np.flatnonzero(correct & ~rival_correct)
    text = (f"Of {len(truth):,} test images both classify {(correct & rival_correct).sum():,} correctly, only {name} "
            f"{len(lost):,}, only {rival} {len(won):,}, neither {(~correct & ~rival_correct).sum():,}.\nIf both were "
            f"equally good, a difference at least as large would occur with p = {mcnemar(len(won), len(lost)):.2g} "
            "(McNemar's exact test).")
    chosen = np.concatenate([won[:SHOWN // 2], lost[:SHOWN // 2]])
    names = [name if len(name) < 20 else f"{name[:8]}…{name[-9:]}" for name in data.classes]
    titles = [f"{names[truth[k]]}\n{names[ours[k]]}\n{names[theirs[k]]}" for k in chosen]
    title = (f"True class, then the predictions of {name} and of {rival}; {data.title}, {len(chosen)} of "
             f"{len(won) + len(lost)}")
    return text, plots.image_grid(data.test_images[chosen], titles, 10, title)


def mcnemar(won: int, lost: int) -> float:
    """Two-sided exact p-value of ``won`` against ``lost`` images, 0 to 1."""
    tail = sum(math.comb(won + lost, k) for k in range(min(won, lost) + 1))
    return min(1.0, 2 * tail / 2 ** (won + lost))
