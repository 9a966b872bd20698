"""A custom network, ``FILE.py:CLASS``. Errors in that file are reported as one sentence with their line number."""
import contextlib
import copy
import functools
import hashlib
import importlib.util
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

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
    """The module of ``path``, read again each time, and so are the modules beside it that it imports."""
    name = f"custom_{path.stem}_{hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses and pickle look a module up there
    folder = str(path.parent)
    sys.path[:] = [folder, *(other for other in sys.path if other != folder)]  # as for a script
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a .pyc could outlive the next edit
    before = set(sys.modules)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
        for other in set(sys.modules) - before:  # another submission may have a module of the same name
            if Path(getattr(sys.modules[other], "__file__", None) or "/").is_relative_to(path.parent):
                del sys.modules[other]
    return module


def _try(model: nn.Module, path: Path, attribute: str, num_classes: int, image_size: int) -> None:
    """Run copies of ``model`` as training and evaluation do. Raises ``CourseError`` for one that cannot be trained."""
    if not isinstance(model, nn.Module):
        raise CourseError(f"{attribute} of {path.name} makes a {type(model).__name__}: it must be a torch.nn.Module.")
    modules = _report_errors(path, lambda: list(model.modules()))
    if any(isinstance(m, (torch.jit.ScriptModule, torch._dynamo.eval_frame.OptimizedModule)) for m in modules):
        raise CourseError(f"{attribute} of {path.name} is scripted or compiled: return the network itself.")
    if any(map(nn.parameter.is_lazy, model.parameters())):  # lazy layers make their parameters at the first call
        with torch.no_grad():
            model.eval()
            _report_errors(path, lambda: model(torch.zeros(2, 3, image_size, image_size)))
    if not any(p.requires_grad for p in model.parameters()):
        raise CourseError(f"{attribute} of {path.name} has no trainable parameters.")

    def check(layout: torch.memory_format) -> None:
        for training, count in ((True, 2), (False, 2), (False, 1)):
            with torch.random.fork_rng(devices=[]):
                out = _report_errors(path, functools.partial(_run_copy, model, training, count, image_size, layout))
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            if found != (count, num_classes):
                raise CourseError(f"{attribute} of {path.name} returns {found} for {count} image{'s' * (count > 1)} of "
                                  f"{image_size}x{image_size} pixels; it must return {(count, num_classes)}: one "
                                  "number for each class.")

    model.channels_last = False  # for ``prepare_training`` and the record
    with contextlib.suppress(CourseError):
        check(torch.channels_last)
        model.channels_last = True
    if not model.channels_last:
        check(torch.contiguous_format)  # raises the same error, unless the layout was the reason
        model.register_forward_pre_hook(lambda _, images: tuple(x.contiguous() for x in images))
    _warn(model, f"{attribute} of {path.name}", image_size)
    model.train()


def _run_copy(model: nn.Module, training: bool, count: int, image_size: int, layout: torch.memory_format) -> Any:
    trial = copy.deepcopy(model)  # a copy keeps the model's statistics unchanged
    trial.train(training)  # a method of the student's own may return nothing
    trial.to(memory_format=layout)
    images = torch.zeros(count, 3, image_size, image_size).contiguous(memory_format=layout)
    with _UsedParameters() as used, torch.set_grad_enabled(training):
        out = trial(images)
    if missing := used.missing(trial):
        raise CourseError(f"{sum(p.numel() for p in missing):,} weights are used that are not among the network's "
                          "parameters, so nobody would train or count them. Keep layers in nn.ModuleList, not in a "
                          "Python list or dictionary.")
    if training and isinstance(out, Tensor) and out.dim() == 2 and out.requires_grad:
        F.cross_entropy(out, torch.zeros(count, dtype=torch.long)).backward()
    return out


class _UsedParameters(TorchFunctionMode):
    """Notes every parameter, and every other tensor made to be trained, that a function is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.used: dict[int, Tensor] = {}

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.used |= {id(p): p for p in (*args, *(kwargs or {}).values()) if isinstance(p, Tensor)
                      and (isinstance(p, nn.Parameter) or (p.requires_grad and p.is_leaf))}
        return func(*args, **(kwargs or {}))

    def missing(self, model: nn.Module) -> list[Tensor]:
        """Those that are not among the parameters of ``model``."""
        own = {id(p) for p in model.parameters()}
        return [p for number, p in self.used.items() if number not in own and p.numel()]


@torch.no_grad()
def _warn(model: nn.Module, name: str, image_size: int) -> None:
    """Warn of what is legal and hardly meant."""
    images = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    model.eval()
    with torch.random.fork_rng(devices=[]):
        first, second = model(images), torch.cat([model(image[None]) for image in images])
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
        warnings.warn(f"{name} gives other results for the same images in eval mode: is there dropout by function "
                      "without training=self.training, or batch norm without running statistics?", stacklevel=2)
    if first.shape[1] > 1 and (first >= 0).all() and torch.allclose(first.sum(1), torch.ones(2), atol=1e-4):
        warnings.warn(f"{name} returns probabilities. The loss expects logits: leave out the softmax.", stacklevel=2)


def _report_errors(path: Path, function: Callable[[], Any]) -> Any:
    """What ``function`` returns; an error in it becomes a ``CourseError`` with the line of ``path``."""
    try:
        return function()
    except CourseError as error:
        report = error
    except SyntaxError as error:
        file, line = Path(error.filename or path), (error.text or "").strip()
        report = CourseError(f"{file.name}, line {error.lineno}:\n    {line}\nSyntaxError: {error.msg}")
    except (Exception, SystemExit) as error:  # whatever a student's code may raise; sys.exit would look like success
        report = _with_source_line(path, error) or CourseError(f"{path.name}: {type(error).__name__}: {error}")
    raise report


def error_with_source_line(name: str, error: BaseException) -> CourseError | None:
    """``error`` with the line of the custom network's file where it happened; ``None`` when that is elsewhere."""
    return _with_source_line(locate_model(name)[0], error) if is_custom(name) else None


def _with_source_line(path: Path, error: BaseException) -> CourseError | None:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == path.parent]
    return CourseError(f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name}:\n"
                       f"    {frames[-1].line}\n{type(error).__name__}: {error}") if frames else None
