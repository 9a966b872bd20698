"""Tables for READMEs and notebooks, in Markdown, from the published records alone."""
from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence

from course_utils.reporting import record
from course_utils.data.datasets import DATASETS
from course_utils.config import STAGE_SETTINGS, TRANSFORM_LISTS, Experiment, describe, load, total_epochs
from course_utils.training.device import short_name

COLUMNS = ("variant", "published (test)", "training, as augmented", "validation", "test accuracy, ours", "test loss",
           "epochs", "parameters", "training time", "machine", "data", "commit", "run")
SHORT = tuple(name for name in COLUMNS
              if name not in ("training, as augmented", "validation", "test loss", "data", "commit"))
WITHOUT_LINKS = COLUMNS[:-1]
COMPARED = tuple(f.name for f in dataclasses.fields(Experiment) if f.name not in ("variant", "about", "stages"))


def results_table(assignment: str, columns: Sequence[str] = COLUMNS) -> str:
    """Markdown: one row for each variant, split and number of epochs, mean over its seeds, from the records alone.

    Links to the executed notebooks are as seen from the repository's root.
    """
    rows = [dict(zip(COLUMNS, _row(assignment, runs))) for runs in groups(assignment)]
    return _markdown([columns, *([row[name] for name in columns] for row in rows)]) if rows else "_No run yet._"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Plain text for a terminal: one line a row, its cells below each other."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *rows = ["| " + " | ".join(line) + " |" for line in lines]
    return "\n".join([head, "|" + " --- |" * len(lines[0]), *rows])


def groups(assignment: str) -> list[list[tuple[str, record.Record]]]:
    """The results, runs that differ in their seed alone together, in the order of ``variants.toml``."""
    order = list(describe(assignment)["variants"])
    found: dict[tuple[int, str, int], list[tuple[str, record.Record]]] = {}
    for name, run in record.results(assignment).items():
        exp = run["experiment"]
        found.setdefault((order.index(exp["variant"]), _split(run), total_epochs(exp)), []).append((name, run))
    return [found[key] for key in sorted(found)]


def _split(run: record.Record) -> str:
    """The split's name where the data set offers a choice and the run held something out, else nothing."""
    exp = run["experiment"]
    return exp.get("split", "") if DATASETS[exp["dataset"]].tracks and exp["holdout"] else ""


def _kept(run: record.Record) -> dict[str, float]:
    """The epoch whose weights were evaluated."""
    return run["history"][run.get("kept_epoch", len(run["history"])) - 1]


def _mean(values: Sequence[float], form: str = ".2f", spread: bool = False) -> str:
    text = format(statistics.fmean(values), form)
    return f"{text} ± {format(statistics.stdev(values), form)}" if spread and len(values) > 1 else text


def _percent_and_loss(runs: Sequence[tuple[str, record.Record]], split: str) -> str:
    rows = [_kept(run) for _, run in runs]
    if f"{split}_loss" not in rows[0]:
        return "–"
    accuracies, losses = [100 * row[f"{split}_accuracy"] for row in rows], [row[f"{split}_loss"] for row in rows]
    return f"{_mean(accuracies)} %, {_mean(losses, '.3f')}"


def _row(assignment: str, runs: Sequence[tuple[str, record.Record]]) -> list[str]:
    exp, split = runs[0][1]["experiment"], _split(runs[0][1])
    variant, epochs = exp["variant"], total_epochs(exp)
    whole = record.asked_epochs(runs[0][1])
    length = f"{epochs}" if epochs == whole else f"{epochs} of {whole}, schedule made for {epochs}"
    early = [f"seed {run['experiment']['seed']} stopped after {len(run['history'])}" for _, run in runs
             if len(run["history"]) < epochs]
    length += f" ({', '.join(early)})" if early else ""
    if exp["keep"] == "best":
        length += f", best kept: {', '.join(str(run['kept_epoch']) for _, run in runs)}"
    where = sorted({f"{short_name(part['machine'])}, {part.get('precision', run['precision'])}"
                    for _, run in runs for part in run["sessions"]})
    return [variant + (f", {split} split" if split else ""), describe(assignment)["published"].get(variant, ""),
            _percent_and_loss(runs, "train"), _percent_and_loss(runs, "val"),
            f"**{_mean([100 * run['final']['accuracy'] for _, run in runs], spread=True)} %** "
            f"({len(runs)} seed{'s' * (len(runs) > 1)})",
            _mean([run["final"]["loss"] for _, run in runs], ".3f"), length, f"{runs[0][1]['parameters']:,}",
            f"{_mean([run['seconds'] / 60 for _, run in runs], '.0f')} min", "; ".join(where),
            _each(f"{run['data']['title']} `{run['data']['sha256']['test_images'][:7]}`" for _, run in runs),
            _each(f"`{(part.get('commit') or '–')[:7]}`" for _, run in runs for part in run["sessions"]),
            "<br>".join(f"seed {run['experiment']['seed']}: [notebook](assignments/{assignment}/runs/{name}.ipynb), "
                        f"[record](assignments/{assignment}/results/{name}.json)" for name, run in runs)]


def _each(texts: Iterable[str]) -> str:
    """Each once, in their order."""
    return "<br>".join(dict.fromkeys(texts))


def compared(assignment: str) -> dict[str, Sequence[dict[str, float]]]:
    """Histories, by variant, of the runs that the assignment's ``compare`` names: of each the first of its longest.

    Nothing unless there is a run of every one of them.
    """
    longest: dict[str, record.Record] = {}
    for runs in groups(assignment):  # in the order of epochs
        longest[runs[0][1]["experiment"]["variant"]] = runs[0][1]
    wanted = describe(assignment)["compare"]
    return {name: longest[name]["history"] for name in wanted} if longest.keys() >= set(wanted) else {}


def split_table(assignment: str) -> str:
    """Markdown: what the held-out pictures promised and what the test images gave, by variant and split."""
    head = ["variant", "split", "seeds", "held-out pictures, plain", "test images", "promised too much"]
    rows = []
    for runs in groups(assignment):
        if not all(run.get("held_out") for _, run in runs):
            continue
        held, test = ([100 * run[part]["accuracy"] for _, run in runs] for part in ("held_out", "final"))
        exp = runs[0][1]["experiment"]
        rows.append([exp["variant"], exp["split"], f"{len(runs)}", f"{_mean(held, spread=True)} %",
                     f"{_mean(test, spread=True)} %", f"{_mean([h - t for h, t in zip(held, test)], '+.2f')} points"])
    return _markdown([head, *rows]) if rows else "_No run yet._"


def versions_table(assignment: str) -> str:
    """Markdown: each variant as its difference from the one that it is ``like``, and what that brought, by the records
    of runs with all their epochs.
    """
    about = describe(assignment)
    whole = {}
    for runs in groups(assignment):
        if record.is_full(runs[0][1]):
            whole[runs[0][1]["experiment"]["variant"]] = runs
    rows = [["version", "differs from", "in", "that is", "published", "validation, ours", "test, ours"]]
    for name, says in about["variants"].items():
        exp, parent = load(assignment, name), says.get("like")
        changes = "<br>".join(_differences(load(assignment, parent), exp)) if parent else "–"
        ours = [_mean([100 * run[part]["accuracy"] for _, run in whole[name]], spread=True) + " %"
                if name in whole and whole[name][0][1].get(part) else "–" for part in ("held_out", "final")]
        rows.append([name, parent or "–", changes, exp.about, about["published"].get(name, "–"), *ours])
    return _markdown(rows)


def _differences(old: Experiment, new: Experiment) -> list[str]:
    """What differs, stage by stage; a stage that ``old`` does not have is told by its difference from the first."""
    lines = []
    for number in range(len(new.stages) + 1):
        before = old.stage(number) if number <= len(old.stages) else new.stage(0)
        after = new.stage(number)
        part = [_difference(name, getattr(before, name), getattr(after, name))
                for name in (STAGE_SETTINGS if number else COMPARED) if getattr(before, name) != getattr(after, name)]
        if part or number > len(old.stages):
            lines.append((f"stage {number + 1}: " if number else "") + "; ".join(part))
    return lines + ["no further stage"] * (len(new.stages) < len(old.stages))


def _difference(name: str, before: object, after: object) -> str:
    """One setting, of an augmentation only the steps that are new and the names of those that are gone."""
    if name not in TRANSFORM_LISTS:
        text = ", ".join(f"{key} {value}" for key, value in after.items()) if isinstance(after, dict) else f"{after}"
        return f"{name} {text.removesuffix('.0') or 'none'}"
    steps = [f"{step.name} ({', '.join(f'{k} {v}' for k, v in step.settings.items())})".replace(" ()", "")
             for step in after if step not in before]
    gone = {step.name for step in before} - {step.name for step in after}
    return f"{name}: " + ", ".join([*steps, *(f"no {step}" for step in sorted(gone))])
