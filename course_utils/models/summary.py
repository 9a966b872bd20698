"""The structure of a network: its summary and the image sizes that it accepts."""
import contextlib
from collections.abc import Iterator

import torch
import torchinfo
from torch import nn

from course_utils.errors import CourseError

Shape = tuple[int, ...]


@contextlib.contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """``model`` in eval mode inside the block, then in its former mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def summary(model: nn.Module, input_size: Shape, depth: int = 2) -> str:
    """torchinfo's table of every layer, nested up to ``depth``; ``input_size`` is (N, C, H, W). Mode and device of the
    model are unchanged.
    """
    columns = ("input_size", "kernel_size", "output_size", "num_params", "trainable")
    try:
        table = torchinfo.summary(model, input_size, verbose=0, device=next(model.parameters()).device,
                                  col_names=columns, col_width=16, depth=depth)
    except RuntimeError as error:  # such as of a block that returns something other than tensors
        return f"{count_parameters(model):,} parameters. torchinfo has no table: {str(error).splitlines()[0]}"
    return str(table).replace("(Units.MEGABYTES)", "(M)").replace("(Units.GIGABYTES)", "(G)")  # torchinfo 1.8.0


def mult_adds(model: nn.Module, input_size: Shape) -> int:
    """Multiply-accumulate operations of one forward pass of (N, C, H, W), as torchinfo counts them."""
    return torchinfo.summary(model, input_size, verbose=0, device=next(model.parameters()).device).total_mult_adds


def count_parameters(model: nn.Module) -> int:
    """Number of values in all parameters, frozen ones included."""
    return sum(p.numel() for p in model.parameters())


def check_input_size(model: nn.Module, size: int) -> None:
    """Raise ``CourseError``, naming the smallest legal size, when ``model`` cannot take ``size`` x ``size`` pixels."""
    if not accepts_size(model, size):
        smallest = next((other for other in range(1, 257) if accepts_size(model, other)), None)
        if smallest is None:
            _run_once(model, (1, 3, size, size))  # it takes no image at all: its own error says why
        raise CourseError(f"{type(model).__name__} cannot take images of {size}x{size} pixels: the smallest that it "
                          f"can take are {smallest}x{smallest}.")


def accepts_size(model: nn.Module, size: int) -> bool:
    """Whether ``model`` can take images of ``size`` x ``size`` pixels; tried with zeros."""
    try:
        _run_once(model, (1, 3, size, size))
    except (RuntimeError, ValueError, AssertionError, IndexError, CourseError):  # any error of a forward pass
        return False
    return True


def _run_once(model: nn.Module, input_size: Shape) -> None:
    """Run ``model`` on zeros in eval mode."""
    with eval_mode(model), torch.no_grad():
        model(torch.zeros(input_size, device=next(model.parameters()).device))
