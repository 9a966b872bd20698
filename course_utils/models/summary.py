"""What a network is made of: its summary, and the size of the tensor after each block."""
from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from course_utils.errors import CourseError

Shape = tuple[int, ...]
LARGEST_TRIED = 256  # pixels, side of the images that are tried to find the smallest


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode for a while, then in the mode it was in."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def summary(model: nn.Module, input_size: Shape) -> str:
    """torchinfo's table of every layer; ``input_size`` is (N, C, H, W). The model is left in the mode it was in."""
    import torchinfo

    columns = ("input_size", "kernel_size", "output_size", "num_params", "trainable")
    was_training = model.training
    table = torchinfo.summary(model, input_size, col_names=columns, col_width=16, depth=2, verbose=0, device="cpu")
    model.train(was_training)
    return str(table).replace("(Units.MEGABYTES)", "(M)").replace("(Units.GIGABYTES)", "(G)")  # torchinfo 1.8.0


def count_parameters(model: nn.Module) -> int:
    """Number of values in all parameters, those that are not trained included."""
    return sum(p.numel() for p in model.parameters())


def mult_adds(model: nn.Module, input_size: Shape) -> int:
    """Multiplications with an addition in one forward pass of (N, C, H, W), as torchinfo counts them."""
    import torchinfo

    return torchinfo.summary(model, input_size, verbose=0, device="cpu").total_mult_adds


def require_side(model: nn.Module, side: int) -> None:
    """Raise ``CourseError``, naming the smallest side that it can take, when ``model`` cannot take images of ``side``.

    Sides are in pixels, images square. Tried by running it on zeros.
    """
    if takes(model, side):
        return
    smallest = next((other for other in range(1, LARGEST_TRIED + 1) if takes(model, other)), None)
    if smallest is None:
        _run_once(model, (1, 3, side, side), ())  # it takes none: its own error says more
    raise CourseError(f"{type(model).__name__} cannot take images of {side}x{side} pixels: the smallest that it can "
                      f"are {smallest}x{smallest}.")


def takes(model: nn.Module, side: int) -> bool:
    """Whether ``model`` can take images of ``side`` x ``side`` pixels; tried by running it on zeros."""
    try:
        _run_once(model, (1, 3, side, side), ())
    except (RuntimeError, ValueError, AssertionError, IndexError, CourseError):  # whatever a network says to that
        return False
    return True


def block_sizes(model: nn.Module, input_size: Shape) -> list[tuple[str, Shape]]:
    """The size of the tensor after each block, in order of execution.

    A block is a direct child of ``model``. What ``forward`` does between two of them (a residual sum, a reshape)
    appears as a row of its own, named after the block that takes it in. ``input_size`` is (N, C, H, W).
    """
    rows: list[tuple[str, Shape]] = []
    last: list[Tensor] = []

    def note_join(name: str, inputs: tuple[Any, ...]) -> None:
        if last and inputs[0] is not last[-1]:
            what = "sum" if inputs[0].shape == last[-1].shape else "reshape"
            rows.append((f"{what}, into {name}", tuple(inputs[0].shape)))

    def note_output(name: str, output: Tensor) -> None:
        rows.append((name, tuple(output.shape)))
        last.append(output)

    hooks = []
    for name, child in model.named_children():
        hooks.append(child.register_forward_pre_hook(lambda _, inputs, name=name: note_join(name, inputs)))
        hooks.append(child.register_forward_hook(lambda _, __, output, name=name: note_output(name, output)))
    _run_once(model, input_size, hooks)
    return rows


def map_sides(model: nn.Module, input_size: Shape) -> dict[str, int]:
    """Blocks whose output still is a map (N, C, side, side), side > 1, with that side, in order of execution.

    They are direct children of ``model``; if none of these gives a map, children of children, and so on.
    ``model.get_submodule`` finds each by its name. Empty for a network without maps.
    """
    sides: dict[str, int] = {}

    def note(name: str, output: Any) -> None:
        if isinstance(output, Tensor) and output.dim() == 4 and output.shape[-1] > 1:
            sides[name] = output.shape[-1]

    hooks = [module.register_forward_hook(lambda _, __, output, name=name: note(name, output))
             for name, module in model.named_modules() if name]
    _run_once(model, input_size, hooks)
    depth = min((name.count(".") for name in sides), default=0)
    return {name: side for name, side in sides.items() if name.count(".") == depth}


def _run_once(model: nn.Module, input_size: Shape, hooks: Iterable[RemovableHandle]) -> None:
    """Run ``model`` on zeros in eval mode for what its ``hooks`` note, and take these off again."""
    try:
        with eval_mode(model), torch.no_grad():
            model(torch.zeros(input_size, device=next(model.parameters()).device))
    finally:
        for hook in hooks:
            hook.remove()
