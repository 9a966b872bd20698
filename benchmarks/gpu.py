"""What full runs on a GPU took, told by their published records: nothing is run here.

    python -m benchmarks.gpu
"""
from __future__ import annotations

import statistics

from benchmarks import training, turns
from course_utils.reporting import record
from course_utils.config import total_epochs
from course_utils.variants import load_experiment
from course_utils.models import build_model

RATES = {"H100": 989e12, "H200": 989e12}  # bf16 operations a second, dense, of the SXM cards: NVIDIA's data sheets
ACCURACY, SECONDS, MINUTES, SEEDS = 94.0, 15.0, 5.0, 5  # goals: %, of the custom ResNet; of s7; and how many runs


def main() -> None:
    """Prints a Markdown table."""
    print(turns.table(rows()))


def rows() -> list[turns.Row]:
    """A row a goal; of those without a run "ours" is ``None``."""
    resnet, s7 = runs("cifar10_custom_resnet", "published"), runs("cifar10_dilated_depthwise", "s7")
    accuracy = 100 * statistics.fmean(run["final"]["accuracy"] for run in resnet) if resnet else None
    met = len(resnet) >= SEEDS and accuracy >= ACCURACY if resnet else None
    what = "custom ResNet, 24 epochs at batch 512"
    return [turns.Row(f"{what}: test accuracy, mean of {SEEDS} seeds", None, accuracy, "%", None, len(resnet),
                      f"{ACCURACY:g} % or more", met),
            turns.at_most(f"{what}: training", [run["seconds"] for run in resnet], "s", SECONDS),
            turns.at_most("`s7`, 200 epochs: training", [run["seconds"] / 60 for run in s7], "min", MINUTES),
            turns.Row("the custom ResNet's share of the GPU's bf16 rate", None, _share(resnet), "%", None, len(resnet))]


def runs(assignment: str, variant: str) -> list[record.Record]:
    """The published ones of a variant's whole length, in bf16 on a GPU of which the rate is known."""
    whole = load_experiment(assignment, variant).all_epochs
    return [run for run in record.results(assignment).values()
            if run["experiment"]["variant"] == variant and total_epochs(run["experiment"]) == whole
            and (run["device"], run["precision"]) == ("cuda", "bf16") and _rate(run)]


def _rate(run: record.Record) -> float | None:
    return next((rate for name, rate in RATES.items() if name in run["sessions"][-1]["machine"]), None)


def _share(found: list[record.Record]) -> float | None:
    """Percent, median over the runs."""
    if not found:
        return None
    exp = load_experiment("cifar10_custom_resnet", "published")
    flop = training.flop(build_model(exp.model, 10), (3, 32, 32)) * 50_000 * exp.all_epochs
    return statistics.median(100 * flop / run["seconds"] / _rate(run) for run in found)


if __name__ == "__main__":
    main()
