"""What full runs on a GPU took, from their published records: nothing is run here.

    python -m benchmarks.gpu
"""
import statistics

from benchmarks import timing
from course_utils.models import build_model
from course_utils.models.summary import mult_adds
from course_utils.reporting.record import Record, is_full_length, published_records
from course_utils.variants import load_experiment

RATES = {"H100": 989e12, "H200": 989e12}  # bf16 operations per second, dense, SXM cards: NVIDIA's data sheets
ACCURACY, SECONDS, MINUTES, SEEDS = 94.0, 15.0, 3.0, 5  # goals: %, of the custom ResNet; of s7; number of runs


def main() -> None:
    """Print a Markdown table."""
    print(timing.table(rows()))


def rows() -> list[timing.Row]:
    """A row per goal; without a run ``ours`` is ``None``."""
    resnet, s7 = runs("cifar10_custom_resnet", "published"), runs("cifar10_dilated_depthwise", "s7")
    accuracy = 100 * statistics.fmean(run["final"]["accuracy"] for run in resnet) if resnet else None
    met = len(resnet) >= SEEDS and accuracy >= ACCURACY if resnet else None
    what = "custom ResNet, 24 epochs at batch 512"
    return [timing.Row(f"{what}: test accuracy, mean of {SEEDS} seeds", None, accuracy, "%", None, len(resnet),
                       f"{ACCURACY:g} % or more", met),
            _at_most(f"{what}: training", [run["seconds"] for run in resnet], "s", SECONDS),
            _at_most("`s7`, 200 epochs: training", [run["seconds"] / 60 for run in s7], "min", MINUTES),
            timing.Row("custom ResNet: first epoch, with warm-up", None, _first_epoch(resnet), "s", None, len(resnet)),
            timing.Row("custom ResNet: a later epoch", None, _later_epoch(resnet), "s", None, len(resnet)),
            timing.Row("custom ResNet: share of the GPU's bf16 rate in a later epoch", None, _share(resnet), "%", None,
                       len(resnet))]


def runs(assignment: str, variant: str) -> list[Record]:
    """The published full-length runs of a variant, in bf16 on a GPU of known rate."""
    return [run for run in published_records(assignment).values()
            if run["experiment"]["variant"] == variant and is_full_length(run)
            and (run["device"], run["precision"]) == ("cuda", "bf16") and _rate(run)]


def _at_most(what: str, found: list[float], unit: str, goal: float) -> timing.Row:
    ours = statistics.median(found) if found else None
    return timing.Row(what, None, ours, unit, None, len(found), f"at most {goal:g} {unit}",
                      None if ours is None else ours <= goal)


def _rate(run: Record) -> float | None:
    return next((rate for name, rate in RATES.items() if name in run["sessions"][-1]["machine"]), None)


def _first_epoch(found: list[Record]) -> float | None:
    return statistics.median(run["history"][0]["seconds"] for run in found) if found else None


def _later_epoch(found: list[Record]) -> float | None:
    """Median over the runs of their fastest epoch: some runs shared the GPU with others for a part of their time."""
    return statistics.median(min(row["seconds"] for row in run["history"]) for run in found) if found else None


def _share(found: list[Record]) -> float | None:
    """Percent. A step has three products per layer: forward, input and weight gradients."""
    if not found:
        return None
    exp = load_experiment("cifar10_custom_resnet", "published")
    flop = 3 * 2 * mult_adds(build_model(exp.model, 10), (1, 3, 32, 32)) * 50_000
    return 100 * flop / _later_epoch(found) / _rate(found[0])


if __name__ == "__main__":
    main()
