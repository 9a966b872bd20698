"""An assignment's rules, which are data in its ``variants.toml``, checked against a network and its experiment.

What a network is made of is found by running it once and following its tensors, never by the names of classes.
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from course_utils.analysis.receptive_field import Layer, trace_fields
from course_utils.config import Experiment
from course_utils.errors import CourseError, unknown_name_error
from course_utils.models.summary import check_input_size, count_parameters
from course_utils.utils import align_columns
from course_utils.variants import read_assignment

Layers = Sequence[Layer]
MAXIMA = ("max_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d", "adaptive_max_pool2d_with_indices",
          "max", "amax")
MEANS = ("avg_pool2d", "adaptive_avg_pool2d", "mean", "sum")  # a sum is a mean up to a factor


@dataclass(frozen=True)
class Finding:
    """One rule and what was found."""

    rule: str
    found: str
    passed: bool | None  # None: open, cannot be decided yet
    extra: bool = False  # for extra points: not needed to pass


@dataclass(frozen=True)
class _Facts:
    """What the rules look at."""

    exp: Experiment
    parameters: int
    axes: tuple[Layers, Layers]  # the layers traced along columns and along rows
    unknown_after: str  # the operation after which the receptive field is unknown, if any
    accuracy: float | None


def check_rules(exp: Experiment, model: nn.Module, image_size: int, accuracy: float | None = None) -> list[Finding]:
    """Check every rule of the experiment's assignment.

    ``model`` takes images of ``image_size`` x ``image_size`` pixels; ``accuracy``, 0 to 1, is that of a full run on all
    test images, if there is one. Raises ``CourseError`` for an assignment without rules.
    """
    rules = read_assignment(exp.assignment)["rules"]
    if not rules:
        raise CourseError(f"{exp.assignment} has no rules in its variants.toml.")
    check_input_size(model, image_size)  # lazy modules have their parameters afterwards
    tracers = [trace_fields(model, (1, 3, image_size, image_size), axis) for axis in (-1, -2)]
    facts = _Facts(exp, count_parameters(model), (tracers[0].layers, tracers[1].layers),
                   tracers[0].unknown_after or tracers[1].unknown_after, accuracy)
    findings = []
    for extra, part in ((False, {k: v for k, v in rules.items() if k != "extra"}), (True, rules.get("extra", {}))):
        for name, wanted in part.items():
            if name in ("uses", "without"):
                findings += [_check_structure(kind, name == "uses", facts.axes, extra) for kind in wanted]
            elif name in RULES:
                findings.append(Finding(*RULES[name](wanted, facts), extra))
            else:
                raise unknown_name_error("rule", name, (*RULES, "uses", "without", "extra"))
    return findings


def findings_table(findings: Sequence[Finding]) -> str:
    """Lines of text, one per rule, and a sum; extra points after the rules."""
    words = {True: "passed", False: "FAILED", None: "open"}
    extra = {True: "earned", False: "not earned", None: "open"}
    rows = [("", "rule", "found"), *(((extra if f.extra else words)[f.passed],
                                      ("extra: " if f.extra else "") + f.rule, f.found) for f in findings)]
    required = [f.passed for f in findings if not f.extra]
    counts = [f"{required.count(value)} {word.lower()}" for value, word in words.items()]
    return "\n".join([*align_columns(rows), ", ".join(counts)])


def all_passed(findings: Sequence[Finding]) -> bool:
    """Whether no rule is broken; extra points and open rules do not count."""
    return all(f.passed is not False for f in findings if not f.extra)


def _check_structure(kind: str, required: bool, axes: Sequence[Layers], extra: bool) -> Finding:
    """A network has what one of its axes has; global average pooling must be global along both."""
    if kind not in STRUCTURE:
        raise unknown_name_error("structure in a rule", kind, STRUCTURE)
    choose = min if kind == "global average pooling" else max
    layers = [layer.name or layer.op for layer in choose(map(STRUCTURE[kind], axes), key=len)]
    found = "none" if not layers else f"{len(layers)}: {', '.join(layers[:2])}{', ...' if len(layers) > 2 else ''}"
    return Finding(f"{'uses' if required else 'without'} {kind}", found, bool(layers) == required, extra)


def _depthwise(layers: Layers) -> Layers:
    return [layer for layer in layers
            if layer.op == "conv2d" and layer.kernel > 1 and layer.groups == layer.channels_in > 1]


def _separable(layers: Layers) -> Layers:
    """Depthwise convolutions that are followed by a 1x1 convolution across the channels."""
    mixed = {number for layer in layers if layer.op in ("conv2d", "linear") and layer.kernel == layer.groups == 1
             for number in layer.inputs}
    return [layer for layer in _depthwise(layers) if any(layers[number] is layer for number in mixed)]


def _global_means(layers: Layers) -> Layers:
    """Means of whole maps whose result no later map takes in, as channel attention does."""
    returned: set[int] = set()
    for number in reversed(range(len(layers))):
        if layers[number].size_in > 1 or number in returned:
            returned |= layers[number].inputs
    return [layer for number, layer in enumerate(layers) if number not in returned and layer.op in MEANS
            and layer.kernel == layer.size_in and layer.size_out == 1]


def _inner_pooling(layers: Layers) -> Layers:
    last = _global_means(layers)
    return [layer for layer in layers if layer.op in (*MAXIMA, *MEANS) and layer not in last]


STRUCTURE: Mapping[str, Callable[[Layers], Layers]] = {
    "depthwise convolution": _depthwise,
    "depthwise separable convolution": _separable,
    "dilated convolution": lambda layers: [layer for layer in layers
                                           if layer.op == "conv2d" and layer.kernel > 1 and layer.dilation > 1],
    "global average pooling": _global_means,
    "max pooling": lambda layers: [layer for layer in layers if layer.op in MAXIMA],
    "strided convolution": lambda layers: [layer for layer in layers if layer.op == "conv2d" and layer.stride > 1],
    "pooling but the last": _inner_pooling,
}


def _receptive_field(least: int, facts: _Facts) -> tuple[str, str, bool | None]:
    rule = f"receptive field of at least {least}"
    if facts.unknown_after:
        return rule, f"unknown after {facts.unknown_after}", None
    field = min(max((layer.field or 1 for layer in side), default=1) for side in facts.axes)
    return rule, f"{field}", field >= least


def _augmentation(names: Sequence[str], facts: _Facts) -> tuple[str, str, bool]:
    found = [step.name for step in (*facts.exp.augmentation, *facts.exp.expansion) if step.p > 0]
    return f"augmentation contains {', '.join(names)}", ", ".join(found) or "none", set(names) <= set(found)


def _accuracy(least: float, facts: _Facts) -> tuple[str, str, bool | None]:
    rule, found = f"at least {least:.1%} of all test images", facts.accuracy
    return rule, "no full run" if found is None else f"{found:.2%}", None if found is None else found >= least


RULES: Mapping[str, Callable[[Any, _Facts], tuple[str, str, bool | None]]] = {
    "parameters_at_most": lambda most, facts: (
        f"at most {most:,} parameters", f"{facts.parameters:,}", facts.parameters <= most),
    "receptive_field_at_least": _receptive_field, "augmentation_contains": _augmentation,
    "epochs_at_most": lambda most, facts: (f"at most {most} epochs", f"{facts.exp.epochs}", facts.exp.epochs <= most),
    "batch_size": lambda size, facts: (f"batch size {size}", f"{facts.exp.batch_size}", facts.exp.batch_size == size),
    "optimizer": lambda name, facts: (f"optimizer {name}", facts.exp.optimizer, facts.exp.optimizer == name),
    "accuracy_at_least": _accuracy,
}
