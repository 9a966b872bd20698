"""All systems at a glance: accuracy of the original and of our best run, against the image passes that each took."""
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator

from course_utils import plots
from course_utils.config import Experiment
from course_utils.data.info import DATASETS
from course_utils.reporting import tables
from course_utils.reporting.record import is_full_length, published_records, variant_of
from course_utils.utils import REPO
from course_utils.variants import list_assignments, load_experiment, read_assignment

LEAN = "-lean"  # ends the name of a variant that trains a published network by a recipe of ours


@dataclass(frozen=True)
class System:
    """One network of an assignment and its best full-length run, all seeds of it."""

    assignment: str
    name: str  # of the published variant
    original: float | None  # accuracy, %; None: none was published for this network
    original_text: str  # the same, and what it is: one that the assignment asks for, one of validation images
    passes: tuple[float, float]  # image passes, millions: original, ours
    accuracies: list[float]  # ours of each seed, %, on images of the kind that the original names
    runs: tables.NamedRuns


def image_passes(exp: Experiment) -> float:
    """How many images a run trains on, counted again in every epoch, in millions."""
    count = DATASETS[exp.dataset].counts["train"]
    items = (count + len(exp.expansion) * (count // 2)) * (1 - exp.holdout)
    return 1e-6 * sum(stage.epochs * stage.passes_per_epoch * items for stage in exp.all_stages)


def systems(assignment: str) -> list[System]:
    """The systems with a full-length run, in the order of ``variants.toml``. The best run is that with the highest mean
    accuracy: which recipe a page shows first is no choice by test images of what is trained.
    """
    published, best = read_assignment(assignment)["published"], {}
    for runs in tables.group_runs(assignment):
        record = runs[0][1]
        name = record["experiment"]["variant"].removesuffix(LEAN)
        if name not in published or not is_full_length(record):
            continue
        (original, text), validation = _original(published[name]), "validation" in published[name]
        passes = tuple(map(image_passes, (load_experiment(assignment, name), variant_of(record))))
        accuracies = [100 * ((validation and run["validation"]) or run["final"])["accuracy"] for _, run in runs]
        if name not in best or statistics.fmean(accuracies) > statistics.fmean(best[name].accuracies):
            best[name] = System(assignment, name, original, text, passes, accuracies, runs)
    return list(best.values())


def assignments_table(notebook_link: Callable[[str], str]) -> str:
    """Markdown: a row per assignment with its page's question and the best results."""
    rows = [["", "assignment", "you will learn", "training, full runs", "best original → best here", "open"]]
    for number, name in enumerate(list_assignments(), 1):
        about, page = read_assignment(name), f"assignments/{name}/README.md"
        text = " ".join((REPO / page).read_text(encoding="utf-8").split())
        found = re.search(r"\*\*Question:\*\* (.+?\?)", text)
        question = found[1] if found else " "
        original = max((_original(text) for variant, text in about["published"].items() if variant != "best"),
                       key=lambda found: found[0] or 0, default=(None, "–"))
        ours = max((statistics.fmean(system.accuracies) for system in systems(name)), default=None)
        rows.append([f"{number}", f"[{tables.raw(about['title'])}]({page})<br>{question[0].upper()}{question[1:]}",
                     tables.raw(about["learn"]), _training_times(name),
                     f"{original[1]} → **{f'{ours:.2f} %' if ours else '–'}**",
                     f"[results]({page}) · {notebook_link(name)}"])
    return tables.markdown_table(rows)


def _original(text: str) -> tuple[float | None, str]:
    """The original accuracy, %, in a text of ``variants.toml``, if there is one, and what to call it."""
    found = re.match(r"(target )?(\d+(?:\.\d+)?) %(?! in)", str(text))
    if not found:
        return None, "–"
    return float(found[2]), f"{found[1] or ''}{float(found[2]):g} %{', validation' * ('validation' in text)}"


def _training_times(assignment: str) -> str:
    """Of the full-length runs, from the shortest to the longest, for each kind of device."""
    times: dict[str, list[float]] = {}
    for record in published_records(assignment).values():
        if is_full_length(record):
            times.setdefault(tables.device_text([record]), []).append(record["seconds"])
    return "<br>".join(" to ".join(dict.fromkeys(map(tables.duration_text, (min(part), max(part))))) + f", {device}"
                       for device, part in sorted(times.items())) or "–"


def overview_table() -> str:
    """Markdown: one row per system."""
    rows = [["system", "original", "ours", "image passes, original", "image passes, ours", "parameters", "time"]]
    for system in (system for assignment in list_assignments() for system in systems(assignment)):
        record = system.runs[0][1]
        variant = record["experiment"]["variant"]
        recipe = "lean" if variant.endswith(LEAN) else "our own" if variant == "best" else "published"
        original, ours = (f"{passes:.2g} M" for passes in system.passes)
        title = tables.raw(read_assignment(system.assignment)["title"].split(":")[0])
        label = tables.run_label(record).removesuffix(LEAN)
        rows.append([f"[{title}](assignments/{system.assignment}/README.md) {label}", system.original_text,
                     f"**{tables.mean_text(system.accuracies, spread=True)} %**, {recipe}, "
                     f"{tables.seeds_text(system.runs)}", "–" if variant == "best" else original, ours,
                     f"{record['parameters']:,}", tables.time_text(system.runs)])
    return tables.markdown_table(rows)


def overview_figure() -> Figure:
    """Accuracy over image passes; a line joins the original and our run of the same network."""
    panels = {name: found for name in list_assignments() if (found := [s for s in systems(name) if s.original])}
    figure, axes = plots.new_figure(4 * max(1, len(panels)), 3.6, 1, max(1, len(panels)))
    for axis, (assignment, found) in zip(axes[0], panels.items()):
        passes = np.array([system.passes for system in found])  # (systems, 2): original, ours
        accuracies = np.array([(system.original, statistics.fmean(system.accuracies)) for system in found])
        axis.plot(passes.T, accuracies.T, color="lightgray", zorder=1)
        label = "target" if "target" in found[0].original_text else "original"
        axis.scatter(passes[:, 0], accuracies[:, 0], marker="o", label=label, edgecolor=plots.BLUE,
                     facecolor="none" if label == "target" else plots.BLUE)
        axis.scatter(passes[:, 1], accuracies[:, 1], color=plots.ORANGE, marker="s", label="ours")
        height = -np.inf
        for k in np.argsort(accuracies[:, 1]):  # upwards: a label that would cover the one below it is moved up
            height = max(accuracies[k, 1], height + 0.06 * np.ptp(accuracies))
            axis.annotate(found[k].name, (passes[k, 1], height), xytext=(7, 0), textcoords="offset points", fontsize=7,
                          va="center")
        axis.set(xscale="log", xlabel="image passes (millions)", xlim=(0.6 * passes.min(), 2.5 * passes.max()))
        axis.set_title(read_assignment(assignment)["title"].replace(": ", ":\n", 1), fontsize=9)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.margins(y=0.15)
        plots.style_axes(axis)
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("final accuracy (%)")
    return figure
