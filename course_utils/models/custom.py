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
from torch.utils._pytree import tree_leaves

from course_utils.config import locate_model
from course_utils.errors import CourseError, unknown_name_error


def build(name: str, num_classes: int, image_size: int, **settings: Any) -> nn.Module:
    """The network of ``FILE.py:CLASS``, tried on images (N, 3, image_size, image_size): it returns (N, num_classes).

    The class is called with ``settings`` and, where it has such an argument, ``num_classes`` (or ``classes``).
    """
    path, attribute = locate_model(name)
    label = f"{attribute} of {path.name}"
    with errors_of_file(path):
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
    name, folder = f"custom_{path.stem}_{hashlib.sha256(str(path.parent).encode()).hexdigest()[:8]}", str(path.parent)
    earlier = {str(Path(module.__file__).parent) for key, module in sys.modules.items() if key.startswith("custom_")}
    for other in [key for key, module in list(sys.modules.items()) if _home(module) in earlier | {folder}]:
        if other.partition(".")[0] not in ("course_utils", "__main__") and not other.startswith("custom_"):
            del sys.modules[other]  # another network may have a module of the same name, or it was edited
    sys.path[:] = [folder, *(other for other in sys.path if other not in earlier | {folder})]  # as for a script
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a module up there
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # a .pyc could outlive the next edit
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = writes
    return module


def _home(module: Any) -> str | None:
    """The folder in which the file, or the package, of an imported ``module`` lies."""
    with contextlib.suppress(Exception):  # some entries of sys.modules import something when they are asked
        top = sys.modules[module.__name__.partition(".")[0]]
        place = Path(getattr(top, "__file__", None) or top.__path__[0])  # a package may have no file
        return str(place.parent.parent if place.name == "__init__.py" else place.parent)
    return None


def _try(model: nn.Module, label: str, num_classes: int, image_size: int) -> None:
    """Run copies of ``model`` as training and evaluation do. Raises ``CourseError`` for one that cannot be trained."""
    if not isinstance(model, nn.Module):
        raise CourseError(f"{label} makes a {type(model).__name__}: it must be a torch.nn.Module.")
    if any(isinstance(m, (torch.jit.ScriptModule, torch._dynamo.eval_frame.OptimizedModule)) or m._compiled_call_impl
           or hasattr(m.forward, "_torchdynamo_orig_callable") for m in model.modules()):
        raise CourseError(f"{label} is scripted or compiled: return the network itself.")
    with torch.random.fork_rng(devices=[]):
        model.eval()
        with torch.no_grad():  # lazy layers, and some networks, make their parameters at the first call
            model(torch.rand(2, 3, image_size, image_size, dtype=torch.float32))
        if not any(p.requires_grad for p in model.parameters()):
            raise CourseError(f"{label} has no trainable parameters.")
        model.takes_channels_last = False  # for ``prepare_training`` and the record
        with contextlib.suppress(Exception):
            _run_copies(model, label, num_classes, image_size, torch.channels_last)
            model.takes_channels_last = True
        layout = torch.channels_last if model.takes_channels_last else torch.contiguous_format
        if not model.takes_channels_last:  # raises the same error, unless the layout was the reason
            _run_copies(model, label, num_classes, image_size, layout)
            model.register_forward_pre_hook(lambda _, images: tuple(x.contiguous() for x in images))
        try:
            _run_copies(model, label, num_classes, image_size, layout, bf16=True)
        except Exception as error:  # whatever a student's code may raise
            warnings.warn(f"{label} cannot be trained in bfloat16 ({type(error).__name__}: {error}). Where precision "
                          "is \"auto\" and the hardware has it, set PRECISION = 'fp32'.", stacklevel=2)
        _warn(model, label, image_size)
    model.train()


def _run_copies(model: nn.Module, label: str, num_classes: int, size: int, layout: torch.memory_format,
                bf16: bool = False) -> None:
    for training, counts in ((True, (3, 2)), (False, (2, 1))):  # two steps, the second with a smaller batch
        trial = copy.deepcopy(model)  # a copy keeps the model's statistics unchanged
        trial.train(training)  # a method of the student's own may return nothing
        trial.to(memory_format=layout)
        known = set(trial.parameters())
        for count in counts:
            images = torch.rand(count, 3, size, size, dtype=torch.float32).contiguous(memory_format=layout)
            with (_UsedParameters() as mode, torch.set_grad_enabled(training),
                  torch.autocast("cpu", torch.bfloat16, enabled=bf16)):
                out = trial(images)
            if missing := sum(p.numel() for p in mode.used - known):
                raise CourseError(f"{missing:,} weights are used that are not among the network's parameters, so "
                                  "nobody would train or count them. Make layers in __init__ and keep them in "
                                  "nn.ModuleList, not in a Python list or dictionary.")
            found = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
            if found != (count, num_classes):
                raise CourseError(f"{label} returns {found} for {count} image{'s' * (count > 1)} of {size}x{size} "
                                  f"pixels; it must return {(count, num_classes)}: one number for each class.")
            if training and out.requires_grad:
                F.cross_entropy(out.float(), torch.zeros(count, dtype=torch.long)).backward()
            if training and all(p.grad is None for p in known):
                raise CourseError(f"No gradient reaches the weights of {label}: is there torch.no_grad(), detach(), "
                                  "argmax, or a tensor made of numbers, between them and the output?")


class _UsedParameters(TorchFunctionMode):
    """Notes every parameter, and every other tensor made to be trained, that a function is called with."""

    def __init__(self) -> None:
        super().__init__()
        self.used: set[Tensor] = set()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        self.used |= {value if value._base is None else value._base for value in tree_leaves((args, kwargs))
                      if isinstance(value, Tensor)
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
def errors_of_file(path: Path) -> Iterator[None]:
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
