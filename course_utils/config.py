"""What defines one run: equal experiments give equal numbers on the same CPU with the same number of threads."""
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from course_utils.errors import CourseError, check_names
from course_utils.utils import REPO

ASSIGNMENTS = REPO / "assignments"
PROFILES = ("smoke", "mini", "evaluate", "full")


@dataclass(frozen=True)
class Transform:
    """One step of an augmentation, as ``variants.toml`` describes it; the names are in ``augment.TRANSFORMS``."""

    name: str
    p: float = 1.0  # probability of being applied to an image, 0 to 1
    settings: Mapping[str, float] = field(default_factory=dict)  # the transform's own fields


@dataclass(frozen=True)
class Experiment:
    """Everything that defines one run; made by ``load_experiment``. Raises ``CourseError`` for invalid values."""

    # Names
    assignment: str  # folder under assignments/
    variant: str  # a [variant.NAME] of that folder's variants.toml
    about: str  # one sentence: what this variant is
    dataset: str  # a name in data.DATASETS
    model: str  # a name in models.MODELS, or FILE.py:CLASS for a custom network
    # Length
    epochs: int  # passes over the training images
    batch_size: int  # images per optimizer step
    # Data
    profile: Literal[PROFILES] = "full"  # small on synthetic data, small on real data, published weights, or full
    data: Literal["real", "synthetic"] = "real"
    train_images: int | None = None  # images used for training; None: all
    test_images: int | None = None  # images used for testing; None: all
    holdout: float = 0.0  # fraction of the training images held out for validation, 0 to 0.5, stratified by class
    split: Literal["random", "track"] = "random"  # what is held out: items, or all photographs of a physical sign
    seed: int = 0  # of weights, order, augmentation and synthetic data
    # Network
    model_settings: Mapping[str, Any] = field(default_factory=dict)  # keyword arguments of the network
    model_file: str | None = None  # SHA-256 of a custom network's file; None: a network of models.MODELS
    # Augmentation
    augmentation: tuple[Transform, ...] = ()  # of training images, in order, before normalization
    passes_per_epoch: int = 1  # times that an epoch goes through the training images, each with new augmentation
    cutmix: float = 0.0  # probability that a part of an image is replaced by a part of another, with its label, 0 to 1
    expansion: tuple[Transform, ...] = ()  # each adds a transformed copy of its own random half of the training images
    engine: Literal["torch", "albumentations", "torchvision"] = "torch"  # whole batches on the device, or per image
    # Optimization
    optimizer: Literal["adam", "sgd"] = "adam"
    lr: float | None = None  # learning rate; with one_cycle the peak; None: from an LR range test
    momentum: float = 0.9  # of SGD
    nesterov: bool = False  # of SGD: Nesterov's momentum
    weight_decay: float = 0.0  # L2, added to the gradient as torch.optim does
    decay: Literal["all", "weights"] = "all"  # what decays; "weights": no biases and no normalization layers
    schedule: Literal["constant", "one_cycle", "step", "cosine"] = "constant"  # stepped after every optimizer step
    peak_epoch: float = 5.0  # one_cycle: epochs until the peak
    div_factor: float = 25.0  # one_cycle: peak / initial learning rate (torch's default)
    final_div_factor: float = 1.0  # one_cycle: initial / final learning rate; 1: no annihilation
    anneal: Literal["linear", "cos"] = "linear"  # one_cycle: shape of the increase and decrease
    step_epochs: float = 30.0  # step: epochs between two reductions
    step_gamma: float = 0.1  # step: factor of a reduction
    label_smoothing: float = 0.0  # fraction of the target spread over all classes, 0 to 1
    l1: float = 0.0  # factor of the L1 penalty: sum over parameter tensors of their mean absolute value
    select_epoch: Literal["last", "best"] = "last"  # whose weights are evaluated; "best" on the validation images
    patience: int | None = None  # early stopping after this many epochs without a better validation accuracy
    lr_finder_steps: int = 60  # optimizer steps of the LR range test
    stages: tuple[Mapping[str, Any], ...] = ()  # later stages on the same weights: the settings that change in each
    # Evaluation
    test_image_size: int | None = None  # pixels to which validation and test images are resized; None: unchanged
    tta_views: int = 0  # test-time augmentation: views averaged with the plain prediction
    tta_augmentation: tuple[Transform, ...] = ()  # of these views; none: the augmentation of the last stage
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # "auto": bf16 where the hardware supports it

    def __post_init__(self) -> None:
        _check(self)
        for number in range(1, len(self.stages) + 1):
            self.stage(number)

    def replace(self, **changes: Any) -> Self:
        """A copy with ``changes``. Changing ``epochs`` scales the schedule and the later stages with it."""
        check_names("setting", changes, SETTINGS)
        if isinstance(changes.get("epochs"), int) and 0 < changes["epochs"] <= 1e6:  # else ``_check`` refuses it
            factor = changes["epochs"] / self.epochs
            stages = tuple(_scale_stage(stage, self.epochs, factor) for stage in self.stages)
            changes = {"peak_epoch": self.peak_epoch * factor, "step_epochs": self.step_epochs * factor,
                       "stages": stages} | changes
        return dataclasses.replace(self, **changes)

    def stage(self, number: int) -> Self:
        """The experiment of one stage: 0 the first. Raises ``CourseError`` for settings that a stage cannot change."""
        changes = dict(self.stages[number - 1]) if number else {}
        check_names("setting of a stage", changes, STAGE_SETTINGS)
        return dataclasses.replace(self, stages=(), **changes)

    @property
    def all_stages(self) -> list[Self]:
        """The experiment of each stage, the first included."""
        return [self.stage(number) for number in range(len(self.stages) + 1)]

    @property
    def test_transforms(self) -> tuple[Transform, ...]:
        """Of plain test and validation images: a resize, where ``test_image_size`` asks for it."""
        return (Transform("resize", 1.0, {"size": self.test_image_size}),) if self.test_image_size else ()

    @property
    def all_epochs(self) -> int:
        """Epochs of all stages together."""
        return total_epochs(vars(self))

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON values, equal for equal experiments."""
        def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
            return dict(settings) | {name: [{"name": s.name, "p": s.p, **s.settings} for s in settings[name]]
                                     for name in TRANSFORM_LISTS if name in settings}

        # Of a custom network the file without its folders.
        return plain(vars(self)) | {"model": Path(self.model).name, "model_settings": dict(self.model_settings),
                                    "stages": [plain(stage) for stage in self.stages]}


SETTINGS = tuple(f.name for f in dataclasses.fields(Experiment))
TRANSFORM_LISTS = ("augmentation", "expansion", "tta_augmentation")
STAGE_SETTINGS = ("epochs", "batch_size", "passes_per_epoch", "augmentation", "cutmix", "optimizer", "lr", "momentum",
                  "nesterov", "weight_decay", "decay", "schedule", "peak_epoch", "div_factor", "final_div_factor",
                  "anneal", "step_epochs", "step_gamma", "label_smoothing", "l1", "patience", "test_image_size")
POSITIVE = ("epochs", "batch_size", "lr", "div_factor", "final_div_factor", "step_epochs", "passes_per_epoch",
            "train_images", "test_image_size", "test_images", "patience")
RANGES = {"holdout": (0.0, 0.5), "label_smoothing": (0.0, 1.0), "momentum": (0.0, 1.0), "weight_decay": (0.0, 1.0),
          "l1": (0.0, 1.0), "cutmix": (0.0, 1.0), "tta_views": (0, 100), "step_gamma": (0.0, 1.0),
          "seed": (0, 2**31 - 1), "lr_finder_steps": (10, 10**6)}


def _check(exp: Experiment) -> None:
    """Raise ``CourseError`` for a wrong type or value; an int becomes a float where the field is one."""
    for name, hint in get_type_hints(Experiment).items():
        value, origin, legal = getattr(exp, name), get_origin(hint), get_args(hint) or (hint,)
        if float in legal and type(value) is int and abs(value) < 2**63:  # a larger int may not fit into a float
            value = float(value)
            object.__setattr__(exp, name, value)
        if origin is Literal:
            check_names(name, [value], legal)
        elif origin is tuple:
            kind, what = (Mapping, "tables") if name == "stages" else (Transform, "transforms")
            if not isinstance(value, tuple) or not all(isinstance(part, kind) for part in value):
                raise CourseError(f"{name} = {value!r}: must be a list of {what}.")
        elif origin is Mapping:
            if not isinstance(value, Mapping):
                raise CourseError(f"{name} = {value!r}: must be a table.")
        elif type(value) not in legal:
            names = " or ".join("None" if t is type(None) else t.__name__ for t in legal)
            raise CourseError(f"{name} = {value!r}: must be {names}.")
        if name in POSITIVE and value is not None and not 0 < value <= 1e6:
            raise CourseError(f"{name} = {value!r}: must be greater than 0{' and at most 1,000,000' * (value > 0)}.")
        if name in RANGES and not RANGES[name][0] <= value <= RANGES[name][1]:
            raise CourseError(f"{name} = {value!r}: must be between {RANGES[name][0]} and {RANGES[name][1]}.")
    if exp.schedule == "one_cycle" and not 0 < exp.peak_epoch < exp.epochs:
        raise CourseError(f"peak_epoch = {exp.peak_epoch}: must be between 0 and epochs = {exp.epochs}.")
    if exp.batch_size < 2:
        raise CourseError("batch_size = 1: must be at least 2, since batch norm compares the images of a batch.")
    if exp.optimizer == "sgd" and exp.nesterov and not exp.momentum:
        raise CourseError("nesterov = True needs momentum > 0.")
    if (exp.select_epoch == "best" or exp.patience is not None) and exp.holdout == 0:
        raise CourseError("select_epoch = 'best' and patience choose by validation accuracy: set holdout > 0. "
                          "Choosing by the test images would bias the result.")


def total_epochs(settings: Mapping[str, Any]) -> int:
    """Epochs of all stages of an experiment as a mapping (``as_dict``, a record's)."""
    first = settings["epochs"]
    return first + sum(stage.get("epochs", first) for stage in settings.get("stages", ()))


def config_differences(here: Mapping[str, Any], there: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(setting, here, there) wherever two experiments as mappings differ, except in ``about``.

    A setting that one of them does not know has its default there; a ``model_file`` that one lacks is no difference.
    """
    defaults = {f.name: [] if f.default == () else f.default for f in dataclasses.fields(Experiment)
                if f.default is not dataclasses.MISSING}
    ours, theirs = defaults | dict(here), defaults | dict(there)
    ignored = {"about"} | ({"model_file"} if None in (ours["model_file"], theirs["model_file"]) else set())
    return [(key, ours.get(key), theirs.get(key)) for key in sorted(ours | theirs)
            if ours.get(key) != theirs.get(key) and key not in ignored]


def describe_differences(requested: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """``config_differences`` as sentences."""
    return [f"{key}: found {there!r}, requested {here!r}" for key, here, there in config_differences(requested, found)]


def _scale_stage(stage: Mapping[str, Any], epochs: int, factor: float) -> dict[str, Any]:
    """A stage with its epochs (default: ``epochs``) and its schedule scaled by ``factor``."""
    before = stage.get("epochs", epochs)
    after = max(1, round(before * factor))
    times = {name: stage[name] * after / before for name in ("peak_epoch", "step_epochs") if name in stage}
    return dict(stage) | times | {"epochs": after}


def is_custom(model: str) -> bool:
    """Whether ``model`` names a network in a file (``FILE.py:CLASS``) and not one of ``models.MODELS``."""
    return ":" in model or model.endswith(".py")


def locate_model(model: str) -> tuple[Path, str]:
    """File and class of ``FILE.py:CLASS``. A relative FILE is searched here, in the repository and in its notebooks.

    Raises ``CourseError`` for another form and for a missing file.
    """
    file, _, attribute = model.rpartition(":")
    if not file.endswith(".py") or not attribute.isidentifier():
        raise CourseError(f"{model!r}: a custom network is named FILE.py:CLASS, such as my_net.py:Net.")
    places = [folder / Path(file).expanduser() for folder in (Path.cwd(), REPO, REPO / "notebooks")]
    for path in places:
        if path.is_file():
            return path.resolve(), attribute
    raise CourseError(f"{model}: there is no {' and no '.join(str(path) for path in dict.fromkeys(places))}.")
