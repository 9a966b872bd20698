"""All systems at a glance: accuracy of the original and of our best run, against the image passes that each took."""
import re
import statistics
from dataclasses import dataclass

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from course_utils import plots
from course_utils.config import Experiment
from course_utils.data.info import DATASETS
from course_utils.reporting.record import Record, is_full_length, variant_of
from course_utils.reporting.tables import (
    NamedRuns,
    group_runs,
    markdown_table,
    mean_text,
    run_label,
    training_time,
)
from course_utils.variants import list_assignments, load_experiment, read_assignment

TICKS = (0.1, 0.3, 1, 3, 10, 30, 100)  # millions of image passes
LEAN = "-lean"  # ends the name of a variant that trains a published network by a recipe of ours


@dataclass(frozen=True)
class System:
    """One network of an assignment and its best full-length run, all seeds of it."""

    assignment: str
    name: str  # of the published variant
    original: float | None  # accuracy, %; None: none was published for this network
    is_target: bool  # whether that is only asked for, by the assignment
    on_validation: bool  # whether the original's is of validation images; else of test images
    original_passes: float
    runs: NamedRuns

    @property
    def passes(self) -> float:
        return image_passes(variant_of(self.runs[0][1]))

    @property
    def accuracies(self) -> list[float]:
        """Of each seed, %, on images of the kind that the original names."""
        part = "validation" if self.on_validation else "final"
        return [100 * (run.get(part) or run["final"])["accuracy"] for _, run in self.runs]


def image_passes(exp: Experiment) -> float:
    """How many images a run trains on, counted again in every epoch."""
    total = 0.0
    for stage in exp.all_stages:
        count = DATASETS[exp.dataset].counts["train"]
        items = count + len(exp.expansion) * (count // 2)
        total += stage.epochs * stage.passes_per_epoch * items * (1 - exp.holdout)
    return total


def systems(assignment: str) -> list[System]:
    """The systems with a full-length run, in the order of ``variants.toml``. The best run is that with the highest mean
    accuracy: which recipe a page shows first is no choice by test images of what is trained.
    """
    about, best = read_assignment(assignment), {}
    for runs in group_runs(assignment):
        record: Record = runs[0][1]
        if is_full_length(record):
            name = record["experiment"]["variant"].removesuffix(LEAN)
            text = str(about["published"].get(name, ""))
            found = re.match(r"(target )?([\d.]+) %(?! in)", text)
            system = System(assignment, name, float(found[2]) if found else None, bool(found and found[1]),
                            "validation" in text, image_passes(load_experiment(assignment, name)), runs)
            if name not in best or statistics.fmean(system.accuracies) > statistics.fmean(best[name].accuracies):
                best[name] = system
    return list(best.values())


def overview_table() -> str:
    """Markdown: one row per system."""
    rows = [["system", "original", "ours", "recipe", "image passes: original, ours", "parameters", "time"]]
    for system in (system for assignment in list_assignments() for system in systems(assignment)):
        record, values = system.runs[0][1], system.accuracies
        devices = dict.fromkeys(part.get("device", "cpu") for _, run in system.runs for part in run["sessions"])
        machine = " and ".join({"cuda": "GPU", "cpu": "CPU"}.get(name, name) for name in devices)
        variant = record["experiment"]["variant"]
        recipe = "lean" if variant.endswith(LEAN) else "ours" if variant == "best" else "published"
        rows.append([
            f"[{read_assignment(system.assignment)['title'].split(':')[0]}]"
            f"(assignments/{system.assignment}/README.md) {run_label(record).removesuffix(LEAN)}",
            f"{'target ' * system.is_target}{system.original:g} %{', validation' * system.on_validation}"
            if system.original else "–",
            f"**{mean_text(values, spread=True)} %**, {len(values)} seed{'s' * (len(values) > 1)}",
            recipe, f"{_millions(system.original_passes)}, {_millions(system.passes)}" if recipe != "ours" else
            f"–, {_millions(system.passes)}", f"{record['parameters']:,}", f"{training_time(system.runs)}, {machine}"])
    return markdown_table(rows)


def overview_figure() -> Figure:
    """Accuracy over image passes; a line joins the original and our run of the same network."""
    panels = {assignment: [system for system in systems(assignment) if system.original]
              for assignment in list_assignments()}
    panels = {assignment: found for assignment, found in panels.items() if found}
    figure, axes = plots.new_figure(4 * max(1, len(panels)), 3.6, 1, max(1, len(panels)))
    for axis, (assignment, found) in zip(axes[0], panels.items()):
        for k, system in enumerate(found):
            passes = [1e-6 * n for n in (system.original_passes, system.passes)]
            ours = statistics.fmean(system.accuracies)
            axis.plot(passes, [system.original, ours], color="lightgray", zorder=1)
            for place, value, color, marker, label in ((passes[0], system.original, plots.BLUE, "o", "original"),
                                                       (passes[1], ours, plots.ORANGE, "s", "ours")):
                axis.scatter(place, value, color=color, marker=marker, label=label if k == 0 else None)
            axis.annotate(system.name, (passes[1], ours), xytext=(5, 4), textcoords="offset points", fontsize=7)
        title, every = read_assignment(assignment)["title"], [n for s in found for n in (s.passes, s.original_passes)]
        axis.set(xscale="log", xlabel="image passes while training (millions)", title=title.replace(": ", ":\n", 1),
                 xlim=(0.6e-6 * min(every), 2.5e-6 * max(every)))
        axis.title.set_fontsize(9)
        axis.set_xticks([n for n in TICKS if axis.get_xlim()[0] <= n <= axis.get_xlim()[1]], minor=False)
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(NullLocator())
        axis.margins(y=0.15)
        plots.style_axes(axis)
        axis.legend(fontsize=8)
    axes[0, 0].set_ylabel("accuracy (%)")
    return figure


def _millions(passes: float) -> str:
    return f"{passes / 1e6:.2g} M"
