"""Training steps per second of a variant: the baseline and ours, in turns, each in a process of its own.

    python -m benchmarks.training cifar10_dilated_depthwise:s7 [--rounds 5] [--steps 5]

Both start from the same weights and see the same augmented batches of real data, made before the clock starts; so their
losses must agree. Baseline: float32, the default memory format, the L1 penalty as a loop, ``.item()`` at every step.
"""
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks import baseline, timing
from course_utils.data import make_loaders, open_dataset
from course_utils.models import build_model
from course_utils.models.blocks import PairedConv2d
from course_utils.training import learning_rates, select_device, select_precision
from course_utils.training.step import TrainStep
from course_utils.training.trainer import prepare_training
from course_utils.variants import load_experiment

GOALS = {"cifar10_custom_resnet:published": 3.0, "cifar10_dilated_depthwise:s7": 4.5}  # ratios, with bf16 units
BATCH = {"cifar10_custom_resnet:published": 128}  # instead of the variant's
CLOSE = 0.05  # the losses may differ by rounding, and by what training makes of it in some dozen steps


@dataclass(frozen=True)
class Part:
    """Some steps of a training."""

    rate: float  # images/s
    loss: float  # mean, nats
    precision: str


def main() -> None:
    """Print a Markdown table."""
    parser = timing.parser(__doc__)
    parser.add_argument("variants", nargs="*", metavar="ASSIGNMENT:VARIANT", default=list(GOALS))
    parser.add_argument("--steps", type=int, default=5, help="optimizer steps per round")
    args = parser.parse_args()
    timing.show(timing.table(measure(args.rounds, args.steps, args.root, args.variants)))


def measure(rounds: int, steps: int, root: Path | None = None,
            variants: Sequence[str] = tuple(GOALS)) -> list[timing.Row]:
    """A row per variant. Raises ``RuntimeError`` when the losses differ: then it is not the same training."""
    rows = []
    for name in variants:
        found = timing.in_processes(prepare, rounds, name, rounds, steps, root)
        precision = found["ours"][0].precision
        losses = [[part.loss for part in found[way]] for way in timing.WAYS]
        if precision == "fp32" and max(abs(a - b) for a, b in zip(*losses)) > CLOSE * losses[0][0]:
            raise RuntimeError(f"{name}: the losses differ: {losses}")
        rates = {way: [part.rate for part in parts] for way, parts in found.items()}
        batch_size = BATCH.get(name) or load_experiment(*name.split(":")).batch_size
        rows.append(timing.ratio_row(f"training step of {name}, batch {batch_size}", rates, f"images/s, {precision}",
                                     GOALS.get(name)))
    return rows


def prepare(way: str, name: str, rounds: int, steps: int, root: Path | None) -> Callable[[], Part]:
    """The function that takes the next ``steps`` steps of a training."""
    exp = load_experiment(*name.split(":", 1), batch_size=BATCH.get(name))
    data = open_dataset(exp.dataset, root)
    device = select_device() if way == "ours" else torch.device("cpu")
    precision = select_precision(exp.precision, device) if way == "ours" else "fp32"
    batches = make_loaders(exp, data, device).train
    ready = list(itertools.islice(batches.epoch(1), 1 + rounds * steps))
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes), **exp.model_settings).train()
    lr = learning_rates(exp, exp.lr or 0.01, len(batches))[0]
    if way == "ours":
        train_step = TrainStep(exp, *prepare_training(exp, model, lr, device), precision)
    else:
        ready = [(x.contiguous(), y) for x, y in ready]
        for layer in model.modules():
            if isinstance(layer, PairedConv2d):
                layer.__class__ = torch.nn.Conv2d  # as notebooks write it
        optimizer = baseline.optimizer_for(model, exp.optimizer, lr, exp.momentum, exp.weight_decay)

    def step(x: torch.Tensor, y: torch.Tensor) -> float:
        if way == "ours":
            return float(train_step(x, y))
        return baseline.step(model, optimizer, x, y, exp.l1)

    step(*ready.pop())  # warm-up

    def measure_part() -> Part:
        start = time.perf_counter()
        losses = [step(*ready.pop(0)) for _ in range(steps)]
        return Part(steps * exp.batch_size / (time.perf_counter() - start), statistics.fmean(losses), precision)

    return measure_part


if __name__ == "__main__":
    main()
