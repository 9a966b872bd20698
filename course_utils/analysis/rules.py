"""An assignment's rules, which are data in its ``variants.toml``, checked against a network and its experiment.

What a network is made of is found by running it once and following its tensors, never by the names of classes.
"""
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from course_utils.analysis.receptive_field import FieldTracer, Layer, trace_fields
from course_utils.config import Experiment
from course_utils.errors import CourseError, check_names, unknown_name_error
from course_utils.models.summary import check_input_size, count_parameters
from course_utils.utils import align_columns
from course_utils.variants import read_assignment

Layers = Sequence[Layer]
Rule = Callable[[Any], tuple[str, str, bool | None]]  # what is wanted -> the rule, what was found, whether it is kept
MEANS = ("avg_pool2d", "adaptive_avg_pool2d", "mean", "nanmean", "std_mean", "sum")  # a sum is a mean up to a factor


@dataclass(frozen=True)
class Finding:
    """One rule and what was found."""

    rule: str
    found: str
    passed: bool | None  # None: open, cannot be decided yet
    extra: bool = False  # for extra points: not needed to pass


def check_rules(exp: Experiment, model: nn.Module, image_size: int, accuracy: float | None = None) -> list[Finding]:
    """Check every rule of the experiment's assignment on images of ``image_size`` x ``image_size`` pixels.
    ``accuracy``, 0 to 1: that of a full run on all test images, if any. Raises ``CourseError`` if there are no rules.
    """
    rules = read_assignment(exp.assignment)["rules"]
    if not rules:
        raise CourseError(f"{exp.assignment} has no rules in its variants.toml.")
    check_input_size(model, image_size)  # lazy modules have their parameters afterwards
    tracers = [trace_fields(model, (1, 3, image_size, image_size), axis) for axis in (-1, -2)]
    known, structures = _known_rules(exp, model, tracers, accuracy), [_structures(tracer) for tracer in tracers]
    findings = []
    for extra, part in ((False, {k: v for k, v in rules.items() if k != "extra"}), (True, rules.get("extra", {}))):
        for name, wanted in part.items():
            if name in ("uses", "without"):
                findings += [_check_structure(kind, name == "uses", structures, extra) for kind in wanted]
            elif name in known:
                findings.append(Finding(*known[name](wanted), extra))
            else:
                raise unknown_name_error("rule", name, (*known, "uses", "without", "extra"))
    return findings


def findings_table(findings: Sequence[Finding]) -> str:
    """Lines of text, one per rule, and a sum; extra points after the rules."""
    words = {True: "passed", False: "FAILED", None: "open"}
    extra = {True: "earned", False: "not earned", None: "open"}
    rows = [("", "rule", "found")]
    rows += [(extra[f.passed], f"extra: {f.rule}", f.found) if f.extra else (words[f.passed], f.rule, f.found)
             for f in findings]
    required = [f.passed for f in findings if not f.extra]
    counts = [f"{required.count(value)} {word.lower()}" for value, word in words.items()]
    return "\n".join([*align_columns(rows), ", ".join(counts)])


def all_passed(findings: Sequence[Finding]) -> bool:
    """Whether no rule is broken; extra points and open rules do not count."""
    return all(f.passed is not False for f in findings if not f.extra)


def _check_structure(kind: str, required: bool, axes: Sequence[Mapping[str, Layers]], extra: bool) -> Finding:
    """A network has what one of its axes has; global average pooling must be global along both."""
    check_names("structure in a rule", [kind], axes[0])
    choose = min if kind == "global average pooling" else max
    layers = [layer.name or layer.op for layer in choose((axis[kind] for axis in axes), key=len)]
    found = "none" if not layers else f"{len(layers)}: {', '.join(layers[:2])}{', ...' if len(layers) > 2 else ''}"
    return Finding(f"{'uses' if required else 'without'} {kind}", found, bool(layers) == required, extra)


def _structures(tracer: FieldTracer) -> dict[str, Layers]:
    """The layers of each structure that a rule can name, of those on the way to the output where that is known."""
    layers = tracer.layers
    used = set(range(len(layers)) if tracer.unknown_after else tracer.output_layers)
    for number in reversed(range(len(layers))):
        used |= layers[number].inputs if number in used else set()
    on_the_way = [layer for number, layer in enumerate(layers) if number in used]
    convolutions = [layer for layer in layers if layer.op == "conv2d"]
    depthwise = [layer for layer in convolutions if layer.kernel > 1 and layer.groups == layer.channels_in > 1]
    mixed = {number for layer in layers if layer.op in ("conv2d", "linear") and layer.kernel == layer.groups == 1
             for number in layer.inputs}  # followed by a 1x1 convolution across the channels
    returned: set[int] = set()  # taken in by a later map, as channel attention does with means of whole maps
    for number in reversed(range(len(layers))):
        if layers[number].size_in > 1 or number in returned:
            returned |= layers[number].inputs
    means = [layer for number, layer in enumerate(layers) if number not in returned and layer.op in MEANS
             and layer.kernel == layer.size_in and layer.size_out == 1]
    maxima = [layer for number, layer in enumerate(layers) if "max_pool" in layer.op
              or (layer.op in ("max", "amax") and number not in returned)]  # returned: such as in x / x.max()
    found = {
        "depthwise convolution": depthwise,
        "depthwise separable convolution": [x for x in depthwise if any(layers[number] is x for number in mixed)],
        "dilated convolution": [layer for layer in convolutions if layer.kernel > 1 and layer.dilation > 1],
        "global average pooling": means,
        "max pooling": maxima,
        "strided convolution": [layer for layer in convolutions if layer.stride > 1],
        "pooling but the last": maxima + [layer for layer in layers if layer.op in MEANS and layer not in means],
    }
    return {kind: [layer for layer in on_the_way if any(layer is other for other in part)]  # in order of execution
            for kind, part in found.items()}


def _known_rules(exp: Experiment, model: nn.Module, tracers: Sequence[FieldTracer],
                 accuracy: float | None) -> dict[str, Rule]:
    """The rules but for those of structure, by name."""
    parameters, unknown = count_parameters(model), tracers[0].unknown_after or tracers[1].unknown_after
    field = min(max((layer.field or 1 for layer in tracer.layers), default=1) for tracer in tracers)
    transforms = [step.name for step in (*exp.augmentation, *exp.expansion) if step.p > 0]
    return {
        "parameters_at_most": lambda most: (f"at most {most:,} parameters", f"{parameters:,}", parameters <= most),
        "receptive_field_at_least": lambda least: (
            f"receptive field of at least {least}", f"unknown after {unknown}" if unknown else f"{field}",
            None if unknown else field >= least),
        "augmentation_contains": lambda names: (
            f"augmentation contains {', '.join(names)}", ", ".join(transforms) or "none", set(names) <= {*transforms}),
        "epochs_at_most": lambda most: (f"at most {most} epochs", f"{exp.epochs}", exp.epochs <= most),
        "batch_size": lambda size: (f"batch size {size}", f"{exp.batch_size}", exp.batch_size == size),
        "optimizer": lambda name: (f"optimizer {name}", exp.optimizer, exp.optimizer == name),
        "accuracy_at_least": lambda least: (
            f"at least {least:.1%} of all test images", "no full run" if accuracy is None else f"{accuracy:.2%}",
            None if accuracy is None else accuracy >= least),
    }
