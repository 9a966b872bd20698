"""What defines one run: a frozen ``Experiment``, read from ``assignments/<name>/variants.toml``.

Two runs with equal experiments on the same CPU, with equally many threads, give the same numbers. Unknown names and
values that cannot be raise ``CourseError`` and list what is legal; nothing is guessed.
"""
from __future__ import annotations

import dataclasses
import json
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from course_utils.models import custom as own
from course_utils.errors import CourseError, check_types, unknown
from course_utils.utils import REPO

ASSIGNMENTS = REPO / "assignments"
PROFILES = ("smoke", "full")


@dataclass(frozen=True)
class Transform:
    """One step of an augmentation, as ``variants.toml`` describes it; ``augment.py`` knows the names."""

    name: str  # a name in augment.TRANSFORMS
    p: float = 1.0  # probability of being applied to an image, 0 to 1
    settings: Mapping[str, float] = field(default_factory=dict)  # the transform's own fields


@dataclass(frozen=True)
class Experiment:
    """Everything that defines one run. See ``load`` for how it is made."""

    assignment: str  # folder under assignments/
    variant: str  # a [variant.NAME] of that folder's variants.toml
    about: str  # one sentence: what this variant is
    dataset: str  # a name in datasets.DATASETS
    model: str  # a name in models.MODELS, or FILE.py:CLASS for a network of your own
    epochs: int  # passes over the training images
    batch_size: int  # images per optimiser step, over all processes together
    profile: str = "full"  # "smoke": small, on the sample; "full": on real data
    data: str = "real"  # "real" or "sample" (the procedural stand-in)
    train_images: int | None = None  # images used for training; None: all
    test_images: int | None = None  # images used for testing; None: all
    holdout: float = 0.0  # share of the training images held out for validation, 0 to 0.5, stratified by class
    split: str = "random"  # what is held out: "random" items, or "track": all pictures of a physical object together
    seed: int = 0  # of weights, order, augmentation and sample
    model_settings: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the model
    model_file: str | None = None  # SHA-256 of the file of a network of your own; None: one of the course's
    augmentation: tuple[Transform, ...] = ()  # of training images, in order, before normalisation
    passes: int = 1  # through the training images in an epoch, each augmented anew
    expansion: tuple[Transform, ...] = ()  # each adds a changed copy of its own random half of the training images
    engine: str = "torch"  # what augments: "torch" (whole batches on the device) or "albumentations" (one by one)
    optimizer: str = "adam"  # "adam" or "sgd"
    lr: float | None = None  # learning rate per step, of one_cycle the peak; None: from an LR range test
    momentum: float = 0.9  # of SGD
    weight_decay: float = 0.0  # L2, added to the gradient as torch.optim does
    schedule: str = "constant"  # "constant", "one_cycle", "step" or "cosine"; all advance once per optimiser step
    peak_epoch: float = 5.0  # one_cycle: epochs until the peak
    div_factor: float = 25.0  # one_cycle: peak rate / first rate (torch's default)
    final_div_factor: float = 1.0  # one_cycle: first rate / last rate; 1: no annihilation
    anneal: str = "linear"  # one_cycle: shape of the way up and down, "linear" or "cos"
    step_epochs: float = 30.0  # step: epochs between two reductions
    step_gamma: float = 0.1  # step: factor of a reduction
    label_smoothing: float = 0.0  # share of the target spread over all classes, 0 to 1
    l1: float = 0.0  # factor of the sum over parameter tensors of their mean absolute value
    keep: str = "last"  # which epoch's weights are evaluated: "last", or "best" on the held-out images
    patience: int | None = None  # stop after so many epochs without a better validation accuracy; None: never
    range_test_steps: int = 60  # optimiser steps of the LR range test
    test_side: int | None = None  # pixels to which held-out and test images are resized; None: as they are
    stages: tuple[Mapping[str, Any], ...] = ()  # of training that follow, on the same weights: what differs in each
    test_views: int = 0  # augmented views of a test image whose predictions are averaged with the plain one's
    precision: str = "auto"  # "fp32", "bf16", or "auto": bf16 where the hardware has units for it

    def __post_init__(self) -> None:
        check_types(self, (*TRANSFORM_LISTS, "model_settings", "stages"))
        _check_values(self)
        for number in range(1, len(self.stages) + 1):
            self.stage(number)

    def replace(self, **changes: Any) -> Experiment:
        """A copy with ``changes``. A new number of epochs stretches the schedule, and the stages that follow, with it,
        unless these are given too.
        """
        known = {f.name for f in dataclasses.fields(self)}
        for name in changes:
            if name not in known:
                raise unknown("setting", name, known)
        if "epochs" in changes and isinstance(changes["epochs"], int):
            stretch = changes["epochs"] / self.epochs
            stages = tuple(_stretched(stage, self.epochs, stretch) for stage in self.stages)
            changes = {"peak_epoch": self.peak_epoch * stretch, "step_epochs": self.step_epochs * stretch,
                       "stages": stages} | changes
        return dataclasses.replace(self, **changes)

    def stage(self, number: int) -> Experiment:
        """The experiment of one stage alone: 0 the first, then as ``stages`` changes it. It has no stages itself.

        Raises ``CourseError`` for a stage that changes what must be one for the whole run.
        """
        changes = dict(self.stages[number - 1]) if number else {}
        for name in changes:
            if name not in STAGE_SETTINGS:
                raise unknown("setting of a stage", name, STAGE_SETTINGS)
        return dataclasses.replace(self, stages=(), **changes)

    @property
    def all_stages(self) -> list[Experiment]:
        """Each stage alone, the first one first."""
        return [self.stage(number) for number in range(len(self.stages) + 1)]

    @property
    def all_epochs(self) -> int:
        """Epochs of all stages together."""
        return total_epochs(vars(self))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, the same for equal experiments."""
        out = dataclasses.asdict(self) | {"model": own.short(self.model)}
        for name in TRANSFORM_LISTS:
            out[name] = _described(getattr(self, name))
        out["stages"] = [dict(stage) | {name: _described(stage[name]) for name in TRANSFORM_LISTS if name in stage}
                         for stage in self.stages]
        return out

    def table(self) -> str:
        """All settings as lines of text, each with its value."""
        rows = self.as_dict()
        for name in TRANSFORM_LISTS:
            steps = [f"{step.name}({', '.join(f'{k}={v}' for k, v in {'p': step.p, **step.settings}.items())})"
                     for step in getattr(self, name)]
            rows[name] = "\n                  ".join(steps) or "none"
        rows["stages"] = "\n                  ".join(map(str, rows["stages"])) or "one"
        return "\n".join(f"{name:<17} {value}" for name, value in rows.items())


def total_epochs(described: Mapping[str, Any]) -> int:
    """Epochs of all stages together, of an experiment as a mapping (``as_dict``, a record's)."""
    first = described["epochs"]
    return first + sum(stage.get("epochs", first) for stage in described.get("stages", ()))


def differing(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(setting, here, there) wherever two experiments as mappings differ, but for their ``about``. A setting younger
    than one of them has its default there.
    """
    defaults = {f.name: [] if f.default == () else f.default for f in dataclasses.fields(Experiment)
                if f.default is not dataclasses.MISSING}
    ours, theirs = defaults | dict(here), defaults | dict(there)
    return [(key, ours.get(key), theirs.get(key)) for key in sorted(ours | theirs)
            if ours.get(key) != theirs.get(key) and key != "about"]


def differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[str]:
    """What is ``differing``, a line each, to somebody who asked for ``here`` and finds ``there``."""
    return [f"{key}: {found!r} there, {asked!r} asked for" for key, asked, found in differing(here, there)]


def _stretched(stage: Mapping[str, Any], epochs: int, stretch: float) -> dict[str, Any]:
    """A stage of so many times its epochs (by default ``epochs``), its schedule with it."""
    before = stage.get("epochs", epochs)
    after = max(1, round(before * stretch))
    times = {name: stage[name] * after / before for name in ("peak_epoch", "step_epochs") if name in stage}
    return dict(stage) | times | {"epochs": after}


def _described(steps: Iterable[Transform]) -> list[dict[str, Any]]:
    return [{"name": step.name, "p": step.p, **step.settings} for step in steps]


KEYS = {"title": str, "notebook": str, "start": str, "published": dict, "rules": dict, "compare": list, "variant": dict,
        "smoke": dict}  # of a variants.toml
TRANSFORM_LISTS = ("augmentation", "expansion")
STAGE_SETTINGS = ("epochs", "batch_size", "passes", "augmentation", "optimizer", "lr", "momentum", "weight_decay",
                  "schedule", "peak_epoch", "div_factor", "final_div_factor", "anneal", "step_epochs", "step_gamma",
                  "label_smoothing", "l1", "patience", "test_side")  # the data, the network and the seed are one
CHOICES = {
    "profile": PROFILES,
    "data": ("real", "sample"),
    "split": ("random", "track"),
    "engine": ("torch", "albumentations"),
    "optimizer": ("adam", "sgd"),
    "schedule": ("constant", "one_cycle", "step", "cosine"),
    "anneal": ("linear", "cos"),
    "keep": ("last", "best"),
    "precision": ("auto", "fp32", "bf16"),
}
POSITIVE = ("epochs", "batch_size", "lr", "div_factor", "final_div_factor", "step_epochs", "passes", "train_images",
            "test_side", "test_images", "patience")
RANGES = {"holdout": (0.0, 0.5), "label_smoothing": (0.0, 1.0), "momentum": (0.0, 1.0), "weight_decay": (0.0, 1.0),
          "l1": (0.0, 1.0), "test_views": (0, 100), "step_gamma": (0.0, 1.0), "seed": (0, 2**31 - 1)}


def _check_values(exp: Experiment) -> None:
    for name, legal in CHOICES.items():
        if getattr(exp, name) not in legal:
            raise unknown(name, getattr(exp, name), legal)
    for name in POSITIVE:
        value = getattr(exp, name)
        if value is not None and not 0 < value < float("inf"):
            raise CourseError(f"{name} = {value!r}: must be greater than 0.")
    for name, (low, high) in RANGES.items():
        if not low <= getattr(exp, name) <= high:
            raise CourseError(f"{name} = {getattr(exp, name)!r}: must lie between {low} and {high}.")
    if exp.range_test_steps < 10:
        raise CourseError(f"range_test_steps = {exp.range_test_steps}: must be at least 10.")
    if exp.schedule == "one_cycle" and not 0 < exp.peak_epoch < exp.epochs:
        raise CourseError(f"peak_epoch = {exp.peak_epoch}: must lie between 0 and epochs = {exp.epochs}.")
    if (exp.keep == "best" or exp.patience is not None) and exp.holdout == 0:
        raise CourseError("keep = 'best' and patience choose by validation accuracy: set holdout > 0. "
                          "Choosing by the test images would flatter the result.")


def assignments() -> tuple[str, ...]:
    """Names of the assignments, in the order of their notebooks."""
    found = {path.parent.name: _read(path.parent.name)["notebook"] for path in ASSIGNMENTS.glob("*/variants.toml")}
    return tuple(sorted(found, key=found.__getitem__))


def _read(assignment: str) -> dict[str, Any]:
    path = ASSIGNMENTS / assignment / "variants.toml"
    if not path.is_file():
        raise unknown("assignment", assignment, (p.parent.name for p in ASSIGNMENTS.glob("*/variants.toml")))
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        json.dumps(table)  # as a record will hold it; TOML knows dates as well
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, TypeError) as error:
        raise CourseError(f"{path}: {error}") from error
    missing = [key for key in ("title", "notebook", "variant", "smoke") if not table.get(key)]
    if missing:
        raise CourseError(f"{path} lacks {', '.join(missing)}.")
    for key, value in table.items():
        if key not in KEYS:
            raise CourseError(f"{path}: {unknown('key', key, KEYS)}")
        if not isinstance(value, KEYS[key]):
            raise CourseError(f"{path}: {key} = {value!r}: must be a {KEYS[key].__name__}.")
    for name, says in table["variant"].items():
        if not isinstance(says, dict) or not isinstance(says.get("like", ""), str):
            raise CourseError(f"{path}: variant {name} must be a table, and what it is like a name.")
    return table


def describe(assignment: str) -> dict[str, Any]:
    """What an assignment is: title, notebook, published results by variant, rules, which runs to compare, and its
    variants, each with what it says itself, ``like`` included.
    """
    table = _read(assignment)
    return {"title": table["title"], "notebook": table["notebook"], "rules": table.get("rules", {}),
            "compare": tuple(table.get("compare", ())),
            "published": table.get("published", {}), "variants": table["variant"]}


def load(assignment: str, variant: str | None = None, profile: str = "full", **overrides: Any) -> Experiment:
    """The experiment of a variant (``None``: the file's ``start``, else its first).

    ``profile="smoke"`` lays the file's [smoke] table over it; ``overrides`` that are not ``None`` come last. A
    ``model`` among them, the course's or ``FILE.py:CLASS``, takes the place of the variant's and of its settings.
    Raises ``CourseError`` for anything unknown, of a wrong type or out of range.
    """
    table = _read(assignment)
    variants = table["variant"]
    variant = table.get("start", next(iter(variants))) if variant is None else str(variant)  # "2.5", maybe read as 2.5
    if variant not in variants:
        raise unknown(f"variant of {assignment}", variant, variants)
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    settings = _inherited(variants, variant)
    settings = _built(settings)
    known = {f.name for f in dataclasses.fields(Experiment)} - {"assignment", "variant", "profile"}
    for name in settings:
        if name not in known:
            raise unknown(f"setting of {assignment}:{variant}", name, known)
    try:
        exp = Experiment(assignment=assignment, variant=variant, profile=profile, **settings)
    except TypeError as error:
        raise CourseError(f"{assignment}:{variant} lacks a setting: {error}") from error
    if profile == "smoke":
        exp = exp.replace(**_built(table["smoke"]))
    overrides = {name: value for name, value in overrides.items() if value is not None}
    if "model" in overrides:
        name = str(overrides["model"])
        overrides = {"model_settings": {}, "about": f"{own.short(name)}, trained as {variant}"} | overrides
        if own.is_own(name):
            overrides["model_file"] = own.fingerprint(name)
    return exp.replace(**overrides)


def _inherited(variants: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """The settings of ``variant`` laid over those of the variant that its ``like`` names, and so on."""
    chain = [variant]
    while "like" in variants[chain[-1]]:
        parent = variants[chain[-1]]["like"]
        if parent not in variants:
            raise unknown(f"variant that {chain[-1]} is like", parent, variants)
        if parent in chain:
            raise CourseError(f"Variants that are like each other in a circle: {' -> '.join([*chain, parent])}.")
        chain.append(parent)
    settings: dict[str, Any] = {}
    for name in reversed(chain):
        settings |= variants[name]
    settings.pop("like", None)
    return settings


def _built(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` of a file with every described transform as a ``Transform``, those of its stages as well."""
    lists = {name: tuple(map(_transform, settings[name])) for name in TRANSFORM_LISTS if name in settings}
    stages = {"stages": tuple(map(_built, settings["stages"]))} if "stages" in settings else {}
    return dict(settings) | lists | stages


def _transform(step: Mapping[str, Any]) -> Transform:
    if "name" not in step:
        raise CourseError(f"augmentation step {dict(step)!r} has no name.")
    settings = {key: value for key, value in step.items() if key not in ("name", "p")}
    return Transform(step["name"], step.get("p", 1.0), settings)
