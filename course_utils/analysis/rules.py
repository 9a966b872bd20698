"""An assignment's rules, which are data in its ``variants.toml``, held against a network and its experiment.

What a network is made of is found by running it once and following its tensors, never by names: a depthwise convolution
is one whatever its class is called.
"""
from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from course_utils.reporting import tables
from course_utils.models.summary import count_parameters, require_side
from course_utils.errors import CourseError, unknown
from course_utils.config import Experiment, describe
from course_utils.analysis.receptive_field import Row, receptive_field

MAXIMA = ("max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices",
          "max", "amax")
MEANS = ("avg_pool2d", "adaptive_avg_pool2d", "mean", "sum")  # a sum is a mean but for a factor


@dataclass(frozen=True)
class Finding:
    """One rule, and what was found."""

    rule: str
    found: str
    passed: bool | None  # None: cannot be told yet
    extra: bool = False  # for extra points: not needed to pass


def check(exp: Experiment, model: nn.Module, side: int, accuracy: float | None = None) -> list[Finding]:
    """Every rule of the experiment's assignment. ``model`` takes images of ``side`` x ``side`` pixels; ``accuracy``,
    0 to 1, is that of a full run on all test images. Raises ``CourseError`` for an assignment without rules.
    """
    rules = describe(exp.assignment)["rules"]
    if not rules:
        raise CourseError(f"{exp.assignment} has no rules in its variants.toml.")
    require_side(model, side)  # by running it: what is lazy has its parameters then
    extra = rules.get("extra", {})
    shape = {"uses", "without", "receptive_field_at_least"} & {*rules, *extra}  # only then are all its layers followed
    axes = tuple(receptive_field(model, (1, 3, side, side), axis) for axis in (-1, -2)) if shape else ((), ())
    facts = _Facts(exp, count_parameters(model), axes, min(map(_largest, axes)), accuracy)
    needed = {name: wanted for name, wanted in rules.items() if name != "extra"}
    return [finding for part, is_extra in ((needed, False), (extra, True)) for name, wanted in part.items()
            for finding in _findings(name, wanted, facts, is_extra)]


def findings_table(findings: Sequence[Finding]) -> str:
    """Lines of text, one a rule, and a sum; extra points behind the rules."""
    words = {True: "passed", False: "FAILED", None: "open"}
    extra = {True: "earned", False: "not earned", None: "open"}
    rows = [("", "rule", "found"), *(((extra if f.extra else words)[f.passed],
                                      ("extra: " if f.extra else "") + f.rule, f.found) for f in findings)]
    needed = [f.passed for f in findings if not f.extra]
    counts = [f"{needed.count(value)} {word.lower()}" for value, word in words.items()]
    return "\n".join([*tables.aligned(rows), ", ".join(counts)])


def passed(findings: Sequence[Finding]) -> bool:
    """Whether no rule is broken; extra points, and rules that cannot be told yet, do not count."""
    return all(f.passed is not False for f in findings if not f.extra)


def recorded_accuracy(exp: Experiment) -> float | None:
    """Mean test accuracy, 0 to 1, over the published runs of this variant with all its epochs; ``None``: no run."""
    runs = [run for group in tables.groups(exp.assignment) for _, run in group
            if all(run["experiment"].get(name) == getattr(exp, name) for name in ("variant", "epochs"))]
    return statistics.fmean(run["final"]["accuracy"] for run in runs) if runs else None


@dataclass(frozen=True)
class _Facts:
    exp: Experiment
    parameters: int
    axes: tuple[Sequence[Row], Sequence[Row]]  # across and down
    field: int  # of the whole network, the smaller of its two sides
    accuracy: float | None

    @property
    def transforms(self) -> list[str]:
        return [step.name for step in (*self.exp.augmentation, *self.exp.expansion) if step.p > 0]


def _largest(rows: Sequence[Row]) -> int:
    return max((row.field for row in rows), default=1)


def _findings(name: str, wanted: Any, facts: _Facts, extra: bool) -> list[Finding]:
    if name in ("uses", "without"):
        return [_structure(kind, name == "uses", facts.axes, extra) for kind in wanted]
    if name not in RULES:
        raise unknown("rule", name, (*RULES, "uses", "without", "extra"))
    rule, found, passed = RULES[name](wanted, facts)
    return [Finding(rule, found, passed, extra)]


def _structure(kind: str, needed: bool, axes: Sequence[Sequence[Row]], extra: bool) -> Finding:
    """A network has what one of its axes has; only what is global must be so along both."""
    if kind not in STRUCTURE:
        raise unknown("structure in a rule", kind, STRUCTURE)
    choose = min if kind == "global average pooling" else max
    layers = [row.layer or row.what for row in choose(map(STRUCTURE[kind], axes), key=len)]
    found = "none" if not layers else f"{len(layers)}: {', '.join(layers[:2])}{', ...' if len(layers) > 2 else ''}"
    return Finding(f"{'uses' if needed else 'without'} {kind}", found, bool(layers) == needed, extra)


def _depthwise(rows: Sequence[Row]) -> list[Row]:
    return [row for row in rows if row.what == "conv2d" and row.kernel > 1 and row.groups == row.channels_in > 1]


def _separable(rows: Sequence[Row]) -> list[Row]:
    """Depthwise convolutions that a 1x1 across the channels takes in."""
    mixed = {number for row in rows if row.what in ("conv2d", "linear") and row.kernel == row.groups == 1
             for number in row.after}
    return [row for row in _depthwise(rows) if any(rows[number] is row for number in mixed)]


def _global_means(rows: Sequence[Row]) -> list[Row]:
    """Means of whole maps that no later map takes in again, as it does those that weigh its channels."""
    returned: set[int] = set()
    for number in reversed(range(len(rows))):
        if rows[number].size_in > 1 or number in returned:
            returned |= rows[number].after
    return [row for number, row in enumerate(rows) if number not in returned and row.what in MEANS
            and row.kernel == row.size_in > row.size_out == 1]


STRUCTURE: Mapping[str, Callable[[Sequence[Row]], list[Row]]] = {
    "depthwise convolution": _depthwise,
    "depthwise separable convolution": _separable,
    "dilated convolution": lambda rows: [row for row in rows
                                         if row.what == "conv2d" and row.kernel > 1 and row.dilation > 1],
    "global average pooling": _global_means,
    "max pooling": lambda rows: [row for row in rows if row.what in MAXIMA],
    "strided convolution": lambda rows: [row for row in rows if row.what == "conv2d" and row.stride > 1],
    "pooling but the last": lambda rows: [row for row in rows if row.what in (*MAXIMA, *MEANS)
                                          and row not in _global_means(rows)],
}
RULES: Mapping[str, Callable[[Any, _Facts], tuple[str, str, bool | None]]] = {
    "parameters_at_most": lambda most, facts: (
        f"at most {most:,} parameters", f"{facts.parameters:,}", facts.parameters <= most),
    "receptive_field_at_least": lambda least, facts: (
        f"receptive field of at least {least}", f"{facts.field}", facts.field >= least),
    "augmentation_contains": lambda names, facts: (
        f"augmentation contains {', '.join(names)}", ", ".join(facts.transforms) or "none",
        set(names) <= set(facts.transforms)),
    "epochs_at_most": lambda most, facts: (f"at most {most} epochs", f"{facts.exp.epochs}", facts.exp.epochs <= most),
    "batch_size": lambda size, facts: (f"batch size {size}", f"{facts.exp.batch_size}", facts.exp.batch_size == size),
    "optimizer": lambda name, facts: (f"optimiser {name}", facts.exp.optimizer, facts.exp.optimizer == name),
    "accuracy_at_least": lambda least, facts: (
        f"at least {least:.1%} of all test images",
        "no full run" if facts.accuracy is None else f"{facts.accuracy:.2%}",
        None if facts.accuracy is None else facts.accuracy >= least),
}
