"""Reading ``assignments/<name>/variants.toml``, strictly."""
import ast
import contextlib
import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from course_utils.config import (
    ASSIGNMENTS,
    PROFILES,
    SETTINGS,
    TRANSFORM_LISTS,
    Experiment,
    Transform,
    is_custom,
    locate_model,
)
from course_utils.errors import CourseError, check_names, unknown_name_error

KEYS = {"title": str, "learn": str, "notebook": str, "start": str, "published": dict, "rules": dict, "compare": list,
        "variant": dict, "smoke": dict, "mini": dict}  # of a variants.toml
PARAMETERS = {"VARIANT", "PROFILE", "SETTINGS", "MODEL", "DATA_DIR", "OUTPUT_DIR", "SEED", "EPOCHS", "BATCH_SIZE", "LR",
              "SPLIT", "ENGINE", "DATASET", "NUM_WORKERS", "PRECISION"}  # of the notebooks
GROUPS = {"assignment": "Run", "epochs": "Length", "profile": "Data", "augmentation": "Augmentation",
          "optimizer": "Optimization", "test_image_size": "Evaluation"}  # by their first setting
APPLIES = {  # settings that mean something only together with others
    "split": lambda exp: exp.holdout, "decay": lambda exp: exp.weight_decay,
    "lr_finder_steps": lambda exp: exp.lr is None, "tta_augmentation": lambda exp: exp.tta_views,
    **dict.fromkeys(("momentum", "nesterov"), lambda exp: exp.optimizer == "sgd"),
    **dict.fromkeys(("step_epochs", "step_gamma"), lambda exp: exp.schedule == "step"),
    **dict.fromkeys(("peak_epoch", "div_factor", "final_div_factor", "anneal"),
                    lambda exp: exp.schedule == "one_cycle")}


def list_assignments() -> tuple[str, ...]:
    """Names of the assignments, in the order of their notebooks."""
    names = [path.parent.name for path in ASSIGNMENTS.glob("*/variants.toml")]
    return tuple(sorted(names, key=lambda name: read_assignment(name)["notebook"]))


def read_assignment(assignment: str) -> dict[str, Any]:
    """An assignment: title, notebook, published results by variant, rules, runs to compare, and its variants, each with
    the settings that it names itself, ``extends`` included. Raises ``CourseError`` for an invalid file.
    """
    check_names("assignment", [assignment], [path.parent.name for path in ASSIGNMENTS.glob("*/variants.toml")])
    path = ASSIGNMENTS / assignment / "variants.toml"
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
        json.dumps(table)  # records are JSON; TOML knows dates as well
    except (ValueError, TypeError, RecursionError) as error:
        raise CourseError(f"{path}: {error}") from error
    missing = [key for key in ("title", "notebook", "variant", "smoke") if not table.get(key)]
    if missing:
        raise CourseError(f"{path} has no {', '.join(missing)}.")
    for key, value in table.items():
        if key not in KEYS:
            raise CourseError(f"{path}: {unknown_name_error('key', key, KEYS)}")
        if not isinstance(value, KEYS[key]):
            raise CourseError(f"{path}: {key} = {value!r}: must be a {KEYS[key].__name__}.")
    for name, settings in table["variant"].items():
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise CourseError(f"{path}: variant {name!r}: a name has letters, digits, '.', '-' and '_', as files have.")
        if not isinstance(settings, dict) or not isinstance(settings.get("extends", ""), str):
            raise CourseError(f"{path}: variant {name} must be a table, and `extends` the name of a variant.")
    return {"learn": "", "rules": {}, "compare": [], "published": {}, "variants": table["variant"]} | table


def load_experiment(assignment: str, variant: str | None = None, profile: str = "full", **overrides: Any) -> Experiment:
    """The experiment of a variant (``None``: the file's ``start``, else its first).

    The profiles "smoke" and "mini" apply the file's tables of these names, "evaluate" changes nothing: its notebook
    loads published weights instead of training. ``overrides`` that are not ``None`` come last. An override of ``model``
    also replaces the variant's ``model_settings``. Raises ``CourseError`` for anything unknown, of a wrong type or out
    of range. An override of ``dataset`` means its real images in every profile, and a random split.
    """
    table = read_assignment(assignment)
    variants = table["variants"]
    variant = table.get("start", next(iter(variants))) if variant is None else str(variant)  # papermill: 2.5 is a float
    check_names(f"variant of {assignment}", [variant], variants)
    settings = build_transforms(_inherited_settings(variants, variant))
    check_names(f"setting of {assignment}:{variant}", settings, {*SETTINGS} - {"assignment", "variant", "profile"})
    try:
        exp = Experiment(assignment=assignment, variant=variant, profile=profile, **settings)
    except TypeError as error:
        raise CourseError(f"{assignment}:{variant} lacks a setting: {error}") from error
    if profile in ("smoke", "mini"):
        check_names(f"profile of {assignment}", [profile], [name for name in PROFILES if name in table])
        exp = exp.replace(**build_transforms(table[profile]))
    overrides = {name: value for name, value in build_transforms(overrides).items() if value is not None}
    if overrides.get("dataset", exp.dataset) != exp.dataset:  # there is no synthetic form, and there are no tracks
        overrides = {"data": "real", "split": "random"} | overrides
    if "model" in overrides:
        about = f"{Path(str(overrides['model'])).name}, trained as {variant}"
        overrides = {"model_settings": {}, "about": about} | overrides
    exp = exp.replace(**overrides)
    return exp.replace(model_file=file_hash(exp.model)) if is_custom(exp.model) else exp


def experiment_table(exp: Experiment) -> str:
    """The settings of ``exp`` that apply, as lines of text; a star marks a difference from the variant's full run."""
    usual, lines = load_experiment(exp.assignment, exp.variant).as_dict(), []
    for name, value in exp.as_dict().items():
        lines += [f"\n{GROUPS[name]}"] if name in GROUPS else []
        differs = value != usual[name]
        if APPLIES.get(name, lambda _: True)(exp) and (value or differs or name == "lr"):
            steps = value if isinstance(value, (list, tuple)) else [value]
            text = "\n".ljust(22).join(map(_setting_text, steps)) or "none"
            text = "from the LR range test" if name == "lr" and value is None else text
            lines.append(f"{'*' if differs else ' '} {name:<18} {text}")
    return "\n".join(lines).strip()


def _setting_text(value: Any) -> str:
    if isinstance(value, Mapping):  # a transform, a stage, or the network's settings
        rest = ", ".join(f"{key} {_setting_text(part)}" for key, part in value.items()
                         if key != "name" and (key, part) != ("p", 1.0))
        return f"{value['name']} ({rest})".removesuffix(" ()") if "name" in value else rest
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_setting_text, value)) + "]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def refuse_misspelt_parameters(names: Mapping[str, Any]) -> None:
    """Raise ``CourseError`` for a value in a notebook's ``globals()`` whose name is nearly that of a parameter, and for
    SETTINGS that are no table, or name a parameter.

    papermill only warns of a parameter that the notebook does not have (``-p epochs 2``), and runs with the default.
    """
    known = PARAMETERS & names.keys()
    if not isinstance(settings := names.get("SETTINGS") or {}, dict):
        raise CourseError(f"SETTINGS = {settings!r}: must be a table, such as {{'l1': 0.0}}.")
    if taken := [name for name in settings if str(name).upper() in known]:
        raise CourseError(f"SETTINGS: {taken[0]} is the parameter {taken[0].upper()}.")
    for name, value in names.items():
        plain = name not in known and name[0] != "_" and isinstance(value, (str, int, float, list, dict))
        close = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.8) if plain else ()
        if close:
            raise CourseError(f"{name} = {value!r} has no effect. Did you mean the parameter {close[0]}?")


def _inherited_settings(variants: Mapping[str, Any], variant: str) -> dict[str, Any]:
    """The settings of ``variant`` applied to those of the variant that it extends, and so on."""
    chain = [variant]
    while "extends" in variants[chain[-1]]:
        parent = variants[chain[-1]]["extends"]
        check_names(f"variant that {chain[-1]} extends", [parent], variants)
        if parent in chain:
            raise CourseError(f"Variants that extend each other in a circle: {' -> '.join([*chain, parent])}.")
        chain.append(parent)
    return {key: value for name in reversed(chain) for key, value in variants[name].items() if key != "extends"}


def build_transforms(settings: Mapping[str, Any]) -> dict[str, Any]:
    """``settings`` with every described transform as a ``Transform``, those of the stages included."""
    built = dict(settings)
    for name, value in settings.items():
        if name in TRANSFORM_LISTS and isinstance(value, list):
            built[name] = tuple(map(_transform, value))
        elif name == "stages" and isinstance(value, list):
            built[name] = tuple(build_transforms(stage) if isinstance(stage, dict) else stage for stage in value)
    return built


def _transform(step: Mapping[str, Any]) -> Transform:
    if not isinstance(step, Mapping) or "name" not in step:
        raise CourseError(f"augmentation step {step!r} has no name.")
    settings = {key: value for key, value in step.items() if key not in ("name", "p")}
    return Transform(step["name"], step.get("p", 1.0), settings)


def model_files(model: str) -> list[Path]:
    """A custom network's file and the modules and packages beside it that it imports."""
    files = [locate_model(model)[0]]
    for path in files:  # the list grows by what each of them imports
        with contextlib.suppress(SyntaxError, ValueError):  # building the network reports it
            nodes = list(ast.walk(ast.parse(path.read_bytes())))
            names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
            names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
            tops = sorted({name.partition(".")[0] for name in names} - {"course_utils"})
            beside = [files[0].with_name(f"{top}.py") for top in tops]
            beside += [file for top in tops for file in sorted(files[0].with_name(top).rglob("*.py"))]  # of a package
            files += [other for other in beside if other.is_file() and other not in files]
    return files


def file_hash(model: str) -> str:
    """SHA-256 of ``model_files``: a run detects their edits."""
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in model_files(model)]
    return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()
