"""Tables and texts for READMEs and notebooks, in Markdown, from the published records alone."""
import re
import statistics
from collections.abc import Sequence

from course_utils.config import SETTINGS, STAGE_SETTINGS, TRANSFORM_LISTS, Experiment, total_epochs
from course_utils.data.info import DATASETS
from course_utils.reporting.record import Record, configured_epochs, is_full_length, published_records
from course_utils.training.device import short_name
from course_utils.variants import load_experiment, read_assignment

NamedRuns = Sequence[tuple[str, Record]]  # runs that differ in the seed alone
NO_RUN = "_No run yet._"
COMPARED = tuple(name for name in SETTINGS if name not in ("variant", "about", "stages", "model_file"))


def group_runs(assignment: str) -> list[NamedRuns]:
    """The published runs, grouped where they differ in the seed alone, in the order of ``variants.toml``."""
    order = list(read_assignment(assignment)["variants"])
    groups: dict[tuple[int, str, int], list[tuple[str, Record]]] = {}
    for name, run in published_records(assignment).items():
        exp = run["experiment"]
        groups.setdefault((order.index(exp["variant"]), _split(run), total_epochs(exp)), []).append((name, run))
    return [groups[key] for key in sorted(groups)]


def results_table(assignment: str, links: bool = True, full_length: bool = True) -> str:
    """Markdown: a row per variant and split, over its seeds; ``links`` from the repository's root. Runs shorter than
    their variant asks, ``full_length=False``, say nothing about it and are a table of their own.
    """
    original, bold = read_assignment(assignment)["published"], "**" * full_length
    rows = [["variant", "original", "test accuracy", "validation", "epochs", "training", *(["run"] if links else [])]]
    for runs in (runs for runs in group_runs(assignment) if is_full_length(runs[0][1]) == full_length):
        run = runs[0][1]
        records = ", ".join(f"[{run['experiment']['seed']}](assignments/{assignment}/results/{name}.json)"
                            for name, run in runs)
        link = f"[notebook](assignments/{assignment}/runs/{runs[0][0]}.ipynb), record {records}"
        rows.append([run_label(run), raw(original.get(run["experiment"]["variant"], "–")),
                     f"{bold}{accuracy_text(runs, spread=True)}{bold} ({seeds_text(runs)})",
                     accuracy_text(runs, "validation"), _length(runs), time_text(runs), *([link] if links else [])])
    return markdown_table(rows)


def provenance_table(assignment: str) -> str:
    """Markdown: for each group of runs the network's size, losses, machine and precision, data and commits."""
    rows = [["variant", "parameters", "training, augmented", "test loss", "machine", "data", "commit"]]
    for runs in group_runs(assignment):
        run = runs[0][1]
        data = dict.fromkeys(f"{raw(run['data']['title'])} `{run['data']['sha256']['test_images'][:7]}`"
                             for _, run in runs)
        commits = dict.fromkeys(f"`{raw(commit[:7])}{'+' * commit.endswith('+')}`" for _, run in runs
                                for part in run["sessions"] if (commit := part.get("commit")))
        where = dict.fromkeys(raw(f"{short_name(part['machine'])}, {part.get('precision', run['precision'])}")
                              for _, run in runs for part in run["sessions"])  # each once, in order
        kept = [run["history"][run["kept_epoch"] - 1] for _, run in runs]
        training = mean_text([100 * row["train_accuracy"] for row in kept])
        loss = mean_text([row["train_loss"] for row in kept], ".3f")
        test_loss = mean_text([run["final"]["loss"] for _, run in runs], ".3f")
        rows.append([f"{run_label(run)}, {total_epochs(run['experiment'])} epochs", f"{run['parameters']:,}",
                     f"{training} %, {loss}", test_loss, *map("<br>".join, (where, data, commits or ["–"]))])
    return markdown_table(rows)


def mirror_table(assignment: str) -> str:
    """Markdown: accuracy of the classes that are mirror images of others, without and with label-changing flips."""
    groups = {runs[0][1]["experiment"]["variant"]: [run for _, run in runs] for runs in group_runs(assignment)}
    without, flips = groups.get("lenet-lean"), groups.get("lenet-flips")
    if not without or not flips:
        return NO_RUN
    names = without[0]["final"]["per_class"]
    swap = {"left": "right", "right": "left"}
    mirrors = {name: re.sub("left|right", lambda side: swap[side[0]], name) for name in names}
    mirrored = [name for name, mirror in mirrors.items() if mirror != name and mirror in names]
    parts = {**{name: [name] for name in mirrored}, "mean of these": mirrored,
             "mean of the other classes": [name for name in names if name not in mirrored]}
    seeds = " and ".join(dict.fromkeys(f"{len(runs)}" for runs in (without, flips)))
    rows = [["class", f"without flips ({seeds} seeds)", f"with flips ({seeds} seeds)", "difference"]]
    for label, classes in parts.items():
        means = [[100 * statistics.fmean(run["final"]["per_class"][name] for name in classes) for run in runs]
                 for runs in (without, flips)]
        gap = statistics.fmean(means[1]) - statistics.fmean(means[0])
        rows.append([label, *(f"{mean_text(values, '.1f', spread=True)} %" for values in means), f"{gap:+.1f} points"])
    return markdown_table(rows)


def split_table(assignment: str) -> str:
    """Markdown: accuracy on plain validation images and on test images, by variant and split."""
    rows = [["variant", "split", "seeds", "validation, plain", "test", "too optimistic by"]]
    for runs in group_runs(assignment):
        if all(run["validation"] for _, run in runs):
            gaps = [100 * (run["validation"]["accuracy"] - run["final"]["accuracy"]) for _, run in runs]
            results = (accuracy_text(runs, part, spread=True) for part in ("validation", "final"))
            exp = runs[0][1]["experiment"]
            rows.append([exp["variant"], exp["split"], f"{len(runs)}", *results, f"{mean_text(gaps, '+.2f')} points"])
    return markdown_table(rows)


def versions_table(assignment: str) -> str:
    """Markdown: each variant as its difference from the one that it extends, with the results of full runs."""
    about = read_assignment(assignment)
    full = {runs[0][1]["experiment"]["variant"]: runs for runs in group_runs(assignment) if is_full_length(runs[0][1])}
    rows = [["version", "based on", "what it changes", "original", "ours"]]
    for name, settings in about["variants"].items():
        exp, parent = load_experiment(assignment, name), settings.get("extends")
        changes = _differences(load_experiment(assignment, parent), exp) if parent else [raw(exp.about)]
        validation, test = (accuracy_text(full.get(name, ()), part, spread=True) for part in ("validation", "final"))
        ours = f"{f'{validation}, ' if validation != '–' else ''}test {test}" if name in full else "–"
        rows.append([name, parent or "–", "<br>".join(changes), raw(about["published"].get(name, "–")), ours])
    return markdown_table(rows)


def compared_histories(assignment: str) -> dict[str, Sequence[dict[str, float]]]:
    """Histories, by variant, of the full runs that ``compare`` in variants.toml names; empty unless all have run."""
    full = {run["experiment"]["variant"]: run for (_, run), *_ in group_runs(assignment) if is_full_length(run)}
    wanted = read_assignment(assignment)["compare"]
    return {name: full[name]["history"] for name in wanted} if full.keys() >= set(wanted) else {}


def recorded_accuracy(exp: Experiment) -> float | None:
    """Mean test accuracy, 0 to 1, over the published full-length runs of this variant; ``None``: no run."""
    accuracies = [run["final"]["accuracy"] for run in published_records(exp.assignment).values()
                  if all(run["experiment"][name] == getattr(exp, name) for name in ("variant", "epochs"))]
    return statistics.fmean(accuracies) if accuracies else None


def summary_markdown(record: Record) -> str:
    """Markdown: what the run reached, on which data, how many images and seeds, on which machine."""
    history, final, exp = record["history"], record["final"], record["experiment"]
    per_class, validation = final["per_class"], record["validation"]
    ran, planned, configured = len(history), total_epochs(exp), configured_epochs(record)
    stopped = "" if ran == planned else f", stopped early of {planned}"
    short = "" if configured in (None, planned) else f" (its variant has {configured})"
    how = "was selected" if exp["select_epoch"] == "best" else "was the last"
    kept = (f"Epoch {record['kept_epoch']} {how} ({exp['split']} split); accuracy on plain validation images: "
            f"{validation['accuracy']:.2%}. " if validation else "")
    seen = f"mean of {exp['tta_views']} augmented views and the plain image" if exp["tta_views"] else "plain images"
    best, worst = max(per_class, key=per_class.get), min(per_class, key=per_class.get)
    return (f"**{record['data']['title']}, one run with seed {exp['seed']}:** test accuracy {final['accuracy']:.2%} "
            f"({final['images']:,} images, {seen}) after {ran} epoch{'s' * (ran > 1)}{stopped}{short}, "
            f"{record['seconds'] / 60:.1f} minutes of training on {record['sessions'][-1]['machine']} in "
            f"{record['precision']}. Peak learning rate {record['lr']:.1e}. {kept}The training loss went from "
            f"{history[0]['train_loss']:.3f} to {history[-1]['train_loss']:.3f}; the test loss is {final['loss']:.3f}. "
            f"Easiest class: {best} ({per_class[best]:.1%}); hardest: {worst} ({per_class[worst]:.1%}).")


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the head."""
    head, *lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(rows[0]), *lines]) if lines else NO_RUN


def raw(text: object) -> str:
    """``text`` of a record or of variants.toml as it is read in Markdown, in one cell of a table."""
    return re.sub(r"([|<>*`\[\]\\])", r"\\\1", " ".join(str(text).split()))


def run_label(run: Record) -> str:
    """The variant, and the split where there is a choice."""
    split = _split(run)
    return run["experiment"]["variant"] + (f", {split} split" if split else "")


def _split(run: Record) -> str:
    """The split's name where the data set offers a choice and the run held images out, else nothing."""
    exp = run["experiment"]
    return exp["split"] if DATASETS[exp["dataset"]].has_tracks and exp["holdout"] else ""


def _length(runs: NamedRuns) -> str:
    exp, configured = runs[0][1]["experiment"], configured_epochs(runs[0][1])
    epochs = total_epochs(exp)
    text = f"{epochs}" if epochs == configured else f"{epochs} of {configured}, schedule scaled"
    if early := [f"seed {run['experiment']['seed']} stopped after {len(run['history'])}" for _, run in runs
                 if len(run["history"]) < epochs]:
        text += f" ({', '.join(early)})"
    best = f", best epoch: {', '.join(str(run['kept_epoch']) for _, run in runs)}"
    return text + best * (exp["select_epoch"] == "best")


def accuracy_text(runs: NamedRuns, part: str = "final", spread: bool = False) -> str:
    """Mean accuracy on test images (or on plain held-out ones, "validation"), in percent, or a dash without any."""
    if not runs or not all(run[part] for _, run in runs):
        return "–"
    return f"{mean_text([100 * run[part]['accuracy'] for _, run in runs], spread=spread)} %"


def seeds_text(runs: NamedRuns) -> str:
    """How many seeds a mean is over, and over how many views of each image, if these are several."""
    views = 1 + runs[0][1]["experiment"]["tta_views"]
    return f"{len(runs)} seed{'s' * (len(runs) > 1)}{f', {views} views averaged' * (views > 1)}"


def time_text(runs: NamedRuns) -> str:
    """Mean training time and where."""
    records = [run for _, run in runs]
    return f"{duration_text(statistics.fmean(run['seconds'] for run in records))}, {device_text(records)}"


def device_text(records: Sequence[Record]) -> str:
    """"CPU", "GPU", or both."""
    devices = dict.fromkeys(part.get("device", "cpu") for record in records for part in record["sessions"])
    return " and ".join({"cuda": "GPU", "cpu": "CPU"}.get(name) or raw(name) for name in devices)


def duration_text(seconds: float) -> str:
    """In minutes or, where it is short, in seconds."""
    return f"{seconds / 60:.0f} min" if seconds >= 120 else f"{seconds:.0f} s"


def mean_text(values: Sequence[float], form: str = ".2f", spread: bool = False) -> str:
    """The mean; with ``spread`` and several values also the sample standard deviation."""
    text = format(statistics.fmean(values), form)
    return f"{text} ± {statistics.stdev(values):{form}}" if spread and len(values) > 1 else text


def _differences(old: Experiment, new: Experiment) -> list[str]:
    """What differs, stage by stage; a stage that ``old`` does not have is compared with the first."""
    lines = []
    for number, after in enumerate(new.all_stages):
        before = old.stage(number) if number <= len(old.stages) else new.stage(0)
        part = "; ".join(_difference(name, getattr(before, name), getattr(after, name))
                         for name in (STAGE_SETTINGS if number else COMPARED)
                         if getattr(before, name) != getattr(after, name))
        if part or number > len(old.stages):
            lines.append(f"stage {number + 1}: {part}" if number else part)
    return lines + ["no further stage"] * (len(new.stages) < len(old.stages))


def _difference(name: str, before: object, after: object) -> str:
    """One setting; of an augmentation the steps that are new and the names of those that are gone."""
    if name not in TRANSFORM_LISTS:
        text = ", ".join(f"{key} {value}" for key, value in after.items()) if isinstance(after, dict) else f"{after}"
        return f"{name} {text.removesuffix('.0') or 'default'}"
    steps = [f"{step.name} ({', '.join(f'{k} {v}' for k, v in step.settings.items())})".replace(" ()", "")
             for step in after if step not in before]
    gone = {step.name for step in before} - {step.name for step in after}
    return f"{name}: " + ", ".join([*steps, *(f"no {step}" for step in sorted(gone))])
