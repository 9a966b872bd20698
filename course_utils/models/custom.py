"""A custom network, ``FILE.py:CLASS``. Errors in that file are reported as one sentence with their line number."""
import contextlib
import copy
import hashlib
import importlib.util
import inspect
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from course_utils.config import locate_model
from course_utils.errors import CourseError, unknown_name_error


def build(name: str, num_classes: int, image_size: int, **settings: Any) -> nn.Module:
    """The network of ``FILE.py:CLASS``, tried on images (N, 3, image_size, image_size): it returns (N, num_classes).

    The class is called with ``settings`` and, where it has such an argument, ``num_classes`` (or ``classes``).
    """
    path, attribute = locate_model(name)
    label = f"{attribute} of {path.name}"
    with _readable_errors(path):
        module = _import_file(path)
        make = getattr(module, attribute, None)
        if make is None:
            here = [key for key, value in vars(module).items() if inspect.isclass(value)
                    and issubclass(value, nn.Module) and value.__module__ == module.__name__]
            raise unknown_name_error(f"network of {path.name}", attribute, here)
        if not callable(make) or isinstance(make, nn.Module):
            raise CourseError(f"{label} is a {type(make).__name__}: it must be a class of torch.nn.Module, or a "
                              "function that makes one.")
        parameters = inspect.signature(make).parameters
        given = [key for key in ("num_classes", "classes") if key in parameters][:1]
        model = make(**dict.fromkeys(given, num_classes) | settings)
        _try(model, label, num_classes, image_size)
    return model


def _import_file(path: Path) -> Any:
    """The module of ``path``, read again each time, and so are the modules beside it that it imports."""
    name = f"custom_{path.stem}_{hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a module up there
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


def _try(model: nn.Module, label: str, num_classes: int, image_size: int) -> None:
    """Run copies of ``model`` as training and evaluation do. Raises ``CourseError`` for one that cannot be trained."""
    if not isinstance(model, nn.Module):
        raise CourseError(f"{label} makes a {type(model).__name__}: it must be a torch.nn.Module.")
    if any(isinstance(m, (torch.jit.ScriptModule, torch._dynamo.eval_frame.OptimizedModule)) for m in model.modules()):
        raise CourseError(f"{label} is scripted or compiled: return the network itself.")
    if any(map(nn.parameter.is_lazy, model.parameters())):  # lazy layers make their parameters at the first call
        model.eval()
        with torch.no_grad():
            model(torch.zeros(2, 3, image_size, image_size))
    if not any(p.requires_grad for p in model.parameters()):
        raise CourseError(f"{label} has no trainable parameters.")
    model.channels_last = False  # for ``prepare_training`` and the record
    with torch.random.fork_rng(devices=[]):
        with contextlib.suppress(Exception):
            _run_copies(model, label, num_classes, image_size, torch.channels_last)
            model.channels_last = True
        if not model.channels_last:  # raises the same error, unless the layout was the reason
            _run_copies(model, label, num_classes, image_size, torch.contiguous_format)
            model.register_forward_pre_hook(lambda _, images: tuple(x.contiguous() for x in images))
        _warn(model, label, image_size)
    model.train()


def _run_copies(model: nn.Module, label: str, num_classes: int, size: int, layout: torch.memory_format) -> None:
    for training, count in ((True, 2), (False, 2), (False, 1)):
        trial = copy.deepcopy(model)  # a copy keeps the model's statistics unchanged
        trial.train(training)  # a method of the student's own may return nothing
        trial.to(memory_format=layout)
        with _UsedParameters() as mode, torch.set_grad_enabled(training):
            out = trial(torch.zeros(count, 3, size, size).contiguous(memory_format=layout))
        if missing := sum(p.numel() for p in mode.used - set(trial.parameters())):
            raise CourseError(f"{missing:,} weights are used that are not among the network's parameters, so nobody "
                              "would train or count them. Keep layers in nn.ModuleList, not in a Python list or "
                              "dictionary.")
        found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
        if found != (count, num_classes):
            raise CourseError(f"{label} returns {found} for {count} image{'s' * (count > 1)} of {size}x{size} pixels; "
                              f"it must return {(count, num_classes)}: one number for each class.")
        if training and out.requires_grad:
            F.cross_entropy(out, torch.zeros(count, dtype=torch.long)).backward()


class _UsedParameters(TorchFunctionMode):
    """Notes every parameter, and every other tensor made to be trained, that a function is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[Tensor] = set()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.used |= {value for value in (*args, *(kwargs or {}).values()) if isinstance(value, Tensor)
                      and (isinstance(value, nn.Parameter) or (value.requires_grad and value.is_leaf))}
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def _warn(model: nn.Module, label: str, image_size: int) -> None:
    """Warn of what is legal and hardly meant."""
    images = torch.rand(2, 3, image_size, image_size, generator=torch.Generator().manual_seed(0))
    model.eval()
    first, second = model(images), torch.cat([model(image[None]) for image in images])
    if not torch.allclose(first, second, rtol=1e-3, atol=1e-4):
        warnings.warn(f"{label} gives other results for the same images in eval mode: is there dropout by function "
                      "without training=self.training, or batch norm without running statistics?", stacklevel=2)
    if first.shape[1] > 1 and (first >= 0).all() and torch.allclose(first.sum(1), torch.ones(2), atol=1e-4):
        warnings.warn(f"{label} returns probabilities. The loss expects logits: leave out the softmax.", stacklevel=2)


@contextlib.contextmanager
def _readable_errors(path: Path) -> Iterator[None]:
    """An error in this block becomes a ``CourseError`` with the line of ``path`` or of a module beside it."""
    try:
        yield
    except CourseError:
        raise
    except SyntaxError as error:
        file, line = Path(error.filename or path), (error.text or "").strip()
        raise CourseError(f"{file.name}, line {error.lineno}:\n    {line}\nSyntaxError: {error.msg}") from None
    except (Exception, SystemExit) as error:  # whatever a student's code may raise; sys.exit would look like success
        other = CourseError(f"{path.name}: {type(error).__name__}: {error}")
        raise (error_with_source_line(path, error) or other) from None


def error_with_source_line(path: Path, error: BaseException) -> CourseError | None:
    """``error`` with the line of ``path`` or of a module beside it where it happened; ``None`` when elsewhere."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == path.parent]
    return CourseError(f"{Path(frames[-1].filename).name}, line {frames[-1].lineno}, in {frames[-1].name}:\n"
                       f"    {frames[-1].line}\n{type(error).__name__}: {error}") if frames else None
