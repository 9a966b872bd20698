"""How much of the image one output sees: by arithmetic along the graph, and by gradients as a check.

The arithmetic is that of Araujo et al. (2019, distill.pub/2019/computing-receptive-fields): with jump j (input pixels
between two neighbouring outputs), a kernel k of dilation d adds d (k - 1) j to the field, and a stride s multiplies j.
"""
from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from course_utils.models.summary import Shape, eval_mode
from course_utils.analysis.follow import KERNELS, Field, Follow, Row


def receptive_field(model: nn.Module, input_size: Shape, axis: int = -1) -> list[Row]:
    """A row for every convolution, pooling and linear layer over a map, in order of execution; the last is the net's.

    The module is run once on zeros of ``input_size`` (N, C, H, W), and every tensor's field is followed through
    whatever its code does, along ``axis``: -1 across, -2 down. Where branches meet, the union of their fields counts.
    What looks at a place that the data decide (a spatial transformer, attention) sees the whole image; that some norms
    take their statistics from all of it is left out, as usual.
    Raises ``CourseError`` for what cannot be followed: enlarging a map, pooling of a rare kind, splitting an axis.
    """
    return _followed(model, input_size, axis).rows


def layer_fields(model: nn.Module, input_size: Shape, axis: int = -1) -> dict[str, Field]:
    """What the output of each module, by its name, sees; otherwise as ``receptive_field``."""
    return _followed(model, input_size, axis).outputs


def _followed(model: nn.Module, input_size: Shape, axis: int) -> Follow:
    with eval_mode(model), torch.no_grad(), Follow(model, axis) as follow:
        x = torch.zeros(input_size, device=next(model.parameters(), torch.empty(0)).device)
        follow.put(x, Field(extent=input_size[axis], dim=axis))
        out = model(x)
        if id(out) not in follow.fields:
            raise follow.lost("something that is no function of torch")
    return follow


def field_table(rows: list[Row]) -> str:
    """``rows`` as lines of text, in the order of the course's spreadsheets."""
    head = ("layer", "kernel", "stride", "dilation", "padding", "in", "out", "jump", "field")
    lines = [head, *((row.layer or row.what, *map(str, (
        row.kernel, row.stride, row.dilation, row.padding, row.size_in, row.size_out, row.jump, row.field)))
        for row in rows)]
    wide = max(len(line[0]) for line in lines)
    return "\n".join(line[0].ljust(wide) + "".join(cell.rjust(9) for cell in line[1:]) for line in lines)


def gradient_field(model: nn.Module, input_size: Shape, draws: int = 1, seed: int = 0, positive: bool = True) -> Tensor:
    """float32 (H, W): how much the middle output depends on each input pixel, mean over ``draws``.

    With ``positive`` random weights nothing cancels, no ReLU closes and pooling takes the mean: whatever is 0 is not
    connected, so the picture's extent is the theoretical field. Otherwise weights are drawn as torch initialises them,
    and the picture is the effective field (Luo et al. 2016, arXiv:1701.04128): large in the middle, faint at its rim.

    The output is the middle one of the last tensor that still is a map (N, C, H, W), H > 1; take an input so large that
    the field lies inside. A head made for another size may refuse it: what comes before it is enough.
    """
    total = torch.zeros(input_size[2:])
    generator = torch.Generator().manual_seed(seed)
    saved = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    try:
        for _ in range(draws):
            _redraw(model, generator, positive)
            x = torch.rand(input_size, generator=generator) - (0 if positive else 0.5)
            with eval_mode(model), _LastMap(smooth=positive) as last, contextlib.suppress(RuntimeError):
                model(x.requires_grad_())
            middle = last.map[:, :, last.map.shape[2] // 2, last.map.shape[3] // 2]
            total += torch.autograd.grad(middle.sum(), x)[0].abs().sum((0, 1))
    finally:
        model.load_state_dict(saved)
    return total / draws


def _redraw(model: nn.Module, generator: torch.Generator, positive: bool) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if positive or parameter.dim() > 1:  # else batch norm and biases keep what they have
                inputs = parameter[0].numel() if parameter.dim() > 1 else 1
                low, high = (0.1, 1.1) if positive else (-1.0, 1.0)
                drawn = torch.rand(parameter.shape, generator=generator) * (high - low) + low
                parameter.copy_(drawn / inputs if positive else drawn * (6 / inputs) ** 0.5)  # He et al. 2015


class _LastMap(TorchFunctionMode):
    """Remembers the last result that is a map of more than one place; ``smooth`` makes means of maxima."""

    def __init__(self, smooth: bool) -> None:
        super().__init__()
        self.smooth, self.map = smooth, torch.zeros(0)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.smooth and func.__name__ == "max_pool2d":
            given = dict(zip(KERNELS["max_pool2d"], args)) | kwargs
            known = ("input", "kernel_size", "stride", "padding", "ceil_mode")
            func, args, kwargs = F.avg_pool2d, (), {name: given[name] for name in known if name in given}
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and out.dim() == 4 and min(out.shape[2:]) > 1 and out.requires_grad:
            self.map = out
        return out
