"""A network of your own: ``FILE.py:NAME`` wherever a network's name is asked for.

What is wrong in that file is told by its own line, in one ``CourseError``.
"""
from __future__ import annotations

import copy
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from course_utils.errors import CourseError, unknown
from course_utils.utils import REPO

if TYPE_CHECKING:
    from torch import nn


def is_own(name: str) -> bool:
    """Whether ``name`` means a file's network and not one of the course's."""
    return ":" in name or name.endswith(".py")


def locate(name: str) -> tuple[Path, str]:
    """File and name of ``FILE.py:NAME``; a relative FILE is looked for here, then in the repository and its notebooks.

    Raises ``CourseError`` for another form, and for a file that is not there.
    """
    file, _, attribute = name.rpartition(":")
    if not file.endswith(".py") or not attribute.isidentifier():
        raise CourseError(f"{name!r}: a network of your own is named FILE.py:CLASS, such as my_net.py:Net.")
    places = [folder / Path(file).expanduser() for folder in (Path.cwd(), REPO, REPO / "notebooks")]
    for path in places:
        if path.is_file():
            return path.resolve(), attribute
    raise CourseError(f"{name}: there is no {' and no '.join(str(path) for path in dict.fromkeys(places))}.")


def absolute(name: str) -> str:
    """``name`` so that it means the same in every folder."""
    path, attribute = locate(name)
    return f"{path}:{attribute}"


def short(name: str) -> str:
    """``name`` without folders, as it may stand in a record."""
    return Path(name).name if is_own(name) else name


def fingerprint(name: str) -> str:
    """SHA-256 of the file, by which a run knows when it was edited (what it imports is not looked at)."""
    return hashlib.sha256(locate(name)[0].read_bytes()).hexdigest()


def build(name: str, classes: int, side: int, **settings: Any) -> nn.Module:
    """The network of ``FILE.py:NAME``, tried on two images (2, 3, side, side) and on one; it must give (2, classes)
    and (1, classes).

    It is called with ``settings`` and, if it takes such an argument, with ``classes``. Raises ``CourseError``.
    """
    path, attribute = locate(name)
    make = _attribute(path, attribute)
    arguments = {**_arguments(make, attribute, classes, settings), **settings}
    model = _guarded(path, lambda: make(**arguments))
    _try(model, path, attribute, classes, side)
    return model


def _attribute(path: Path, attribute: str) -> Callable[..., nn.Module]:
    from torch import nn

    module = _guarded(path, lambda: _imported(path))
    if not hasattr(module, attribute):
        here = [name for name, value in vars(module).items() if inspect.isclass(value) and issubclass(value, nn.Module)
                and value.__module__ == module.__name__]
        raise unknown(f"network of {path.name}", attribute, here)
    make = getattr(module, attribute)
    if not callable(make) or isinstance(make, nn.Module):
        raise CourseError(f"{attribute} of {path.name} is a {type(make).__name__}: it must be a class of "
                          "torch.nn.Module, or a function that makes one.")
    return make


def _imported(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"own_{path.stem}", path)
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


def _arguments(make: Callable, attribute: str, classes: int, settings: dict[str, Any]) -> dict[str, int]:
    try:
        parameters = inspect.signature(make).parameters
    except (TypeError, ValueError):  # something built in
        raise CourseError(f"{attribute} must be a class of torch.nn.Module, not {make!r}.") from None
    wanted = [p.name for p in parameters.values() if p.default is p.empty and p.kind in (0, 1, 3)
              and p.name not in settings and p.name != "classes"]
    if wanted:
        raise CourseError(f"{attribute} needs {', '.join(wanted)}: only `classes` is given to it. "
                          "Give its other arguments defaults.")
    return {"classes": classes} if "classes" in parameters else {}


def _try(model: nn.Module, path: Path, attribute: str, classes: int, side: int) -> None:
    import torch
    from torch import nn

    if not isinstance(model, nn.Module):
        raise CourseError(f"{attribute} of {path.name} makes a {type(model).__name__}: it must be a torch.nn.Module.")
    if not any(p.requires_grad for p in model.parameters()):
        raise CourseError(f"{attribute} of {path.name} holds no parameters: there is nothing to train.")
    for training, count, words in ((True, 2, "two images"), (False, 2, "two images"), (False, 1, "one image")):
        images = torch.zeros(count, 3, side, side)
        with torch.random.fork_rng(devices=[]), torch.no_grad():  # a copy keeps its statistics untouched
            out = _guarded(path, lambda training=training, images=images: _in_mode(model, training)(images))
        found = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        if found != (count, classes):
            raise CourseError(f"{attribute} of {path.name} gives {found} for {words} of {side}x{side} pixels; it must "
                              f"give {(count, classes)}: one number for each class.")
    model.train()


def _in_mode(model: nn.Module, training: bool) -> nn.Module:
    tried = copy.deepcopy(model)
    tried.train(training)  # a method of the student's own may return nothing
    return tried


def _guarded(path: Path, act: Callable[[], Any]) -> Any:
    """What ``act`` returns; an error in it is told by the line of ``path`` where it happened."""
    try:
        return act()
    except SyntaxError as error:
        file, line = Path(error.filename or path), (error.text or "").strip()
        told = CourseError(f"{file.name}, line {error.lineno}:\n    {line}\nSyntaxError: {error.msg}")
    except Exception as error:  # whatever a student's code may raise
        told = _by_line(path, error) or CourseError(f"{path.name}: {type(error).__name__}: {error}")
    raise told


def told(name: str, error: Exception) -> CourseError | None:
    """``error`` by the line of the network's file where it happened; ``None`` when it did not happen there."""
    return _by_line(locate(name)[0], error) if is_own(name) else None


def _by_line(path: Path, error: Exception) -> CourseError | None:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).parent == path.parent]
    if not frames:
        return None
    file, line, place = Path(frames[-1].filename), frames[-1].line, f"line {frames[-1].lineno}, in {frames[-1].name}"
    return CourseError(f"{file.name}, {place}:\n    {line}\n{type(error).__name__}: {error}")
