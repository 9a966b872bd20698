"""A custom network, ``FILE.py:CLASS``. Errors in that file are reported as one sentence with their line number."""
import copy
import functools
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from course_utils.config import is_custom, locate_model
from course_utils.errors import CourseError, unknown_name_error


def build(name: str, num_classes: int, image_size: int, **settings: Any) -> nn.Module:
    """The network of ``FILE.py:CLASS``, tried on images (N, 3, image_size, image_size): it returns (N, num_classes).

    The class is called with ``settings`` and, where it has such an argument, ``num_classes`` (or ``classes``).
    """
    path, attribute = locate_model(name)
    module = _report_errors(path, lambda: _import_file(path))
    make = getattr(module, attribute, None)
    if make is None:
        here = [name for name, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)
                and value.__module__ == module.__name__]
        raise unknown_name_error(f"network of {path.name}", attribute, here)
    if not callable(make) or isinstance(make, nn.Module):
        raise CourseError(f"{attribute} of {path.name} is a {type(make).__name__}: it must be a class of "
                          "torch.nn.Module, or a function that makes one.")
    parameters = _report_errors(path, lambda: inspect.signature(make).parameters)
    given = [name for name in ("num_classes", "classes") if name in parameters][:1]
    model = _report_errors(path, lambda: make(**dict.fromkeys(given, num_classes) | settings))
    _try(model, path, attribute, num_classes, image_size)
    return model


def _import_file(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"custom_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up there
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))  # as for a script: modules beside it can be imported
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a .pyc could outlive the next edit
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


def _try(model: nn.Module, path: Path, attribute: str, num_classes: int, image_size: int) -> None:
    if not isinstance(model, nn.Module):
        raise CourseError(f"{attribute} of {path.name} makes a {type(model).__name__}: it must be a torch.nn.Module.")
    if not any(p.requires_grad for p in model.parameters()):
        raise CourseError(f"{attribute} of {path.name} has no trainable parameters.")

    def run(training: bool, images: torch.Tensor) -> Any:
        trial = copy.deepcopy(model)  # a copy keeps the model's statistics unchanged
        trial.train(training)  # a method of the student's own may return nothing
        return trial(images)

    for training, count in ((True, 2), (False, 2), (False, 1)):
        images = torch.zeros(count, 3, image_size, image_size)
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            out = _report_errors(path, functools.partial(run, training, images))
        found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        if found != (count, num_classes):
            raise CourseError(f"{attribute} of {path.name} returns {found} for {count} image{'s' * (count > 1)} of "
                              f"{image_size}x{image_size} pixels; it must return {(count, num_classes)}: one number "
                              "for each class.")
    model.train()


def _report_errors(path: Path, function: Callable[[], Any]) -> Any:
    """What ``function`` returns; an error in it becomes a ``CourseError`` with the line of ``path``."""
    try:
        return function()
    except SyntaxError as error:
        file, line = Path(error.filename or path), (error.text or "").strip()
        report = CourseError(f"{file.name}, line {error.lineno}:\n    {line}\nSyntaxError: {error.msg}")
    except Exception as error:  # whatever a student's code may raise
        report = _with_source_line(path, error) or CourseError(f"{path.name}: {type(error).__name__}: {error}")
    raise report


def error_with_source_line(name: str, error: Exception) -> CourseError | None:
    """``error`` with the line of the custom network's file where it happened; ``None`` when that is elsewhere."""
    return _with_source_line(locate_model(name)[0], error) if is_custom(name) else None


def _with_source_line(path: Path, error: Exception) -> CourseError | None:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == path.parent]
    return CourseError(f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name}:\n"
                       f"    {frames[-1].line}\n{type(error).__name__}: {error}") if frames else None
