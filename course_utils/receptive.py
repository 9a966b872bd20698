"""How much of the image one output sees: by arithmetic along the graph, and by gradients as a check.

The arithmetic is that of Araujo et al. (2019, distill.pub/2019/computing-receptive-fields): with jump j (input pixels
between two neighbouring outputs), a kernel k of dilation d adds d (k - 1) j to the field, and a stride s multiplies j.
"""
from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from course_utils.anatomy import Shape, eval_mode
from course_utils.errors import CourseError


@dataclass(frozen=True)
class Field:
    """What the outputs of one tensor see of the input, along one axis."""

    size: int = 1  # pixels that one output sees
    jump: int = 1  # pixels from one output's field to the next one's
    left: int = 0  # first pixel that the first output sees; below 0 it lies in the padding
    extent: int = 1  # outputs along the axis, even where a reshape has hidden the axis
    rows: frozenset[int] = frozenset()  # numbers of the rows whose results it is made of, by pointwise work alone


@dataclass(frozen=True)
class Row:
    """One convolution, pooling or linear layer over a map, as the course's spreadsheets list it, and what feeds it."""

    layer: str  # the module's name
    kernel: int  # pixels of a side, of its own input
    stride: int
    dilation: int
    padding: int
    size_in: int  # pixels of a side
    size_out: int
    jump: int  # input pixels between two neighbouring outputs
    field: int  # input pixels that one output sees, along a side
    what: str  # the torch function: "conv2d", "avg_pool2d", "linear", "mean", ...
    channels_in: int
    channels_out: int
    groups: int  # of a convolution; 1 elsewhere
    after: frozenset[int]  # numbers of the rows that it takes in, with pointwise work alone in between


def receptive_field(model: nn.Module, input_size: Shape, axis: int = -1) -> list[Row]:
    """A row for every convolution, pooling and linear layer over a map, in order of execution; the last is the net's.

    The module is run once on zeros of ``input_size`` (N, C, H, W), and every tensor's field is followed through
    whatever its code does, along ``axis``: -1 across, -2 down. Where branches meet, the union of their fields counts.
    What looks at a place that the data decide (a spatial transformer) sees the whole image.
    Raises ``CourseError`` for what cannot be followed: enlarging a map, pooling of a rare kind.
    """
    with eval_mode(model), torch.no_grad(), _Follow(model, axis) as follow:
        x = torch.zeros(input_size, device=next(model.parameters()).device)
        follow.put(x, Field(extent=input_size[axis]))
        model(x)
    return follow.rows


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


class _Follow(TorchFunctionMode):
    """Carries a ``Field`` along with every tensor through each torch function that the model's code calls."""

    def __init__(self, model: nn.Module, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.rows: list[Row] = []
        self.fields: dict[int, tuple[Tensor, Field]] = {}  # by id; the tensor is kept, so that no id comes again
        self.names = {module: name for name, module in model.named_modules()}
        self.inside: list[str] = []
        self.hooks = [hook for module in model.modules() for hook in (
            module.register_forward_pre_hook(lambda module, _: self.inside.append(self.names[module])),
            module.register_forward_hook(lambda *_: self.inside.pop() and None))]

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        for hook in self.hooks:
            hook.remove()

    def put(self, tensor: Tensor, field: Field) -> None:
        self.fields[id(tensor)] = (tensor, field)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        seen = [self.fields[id(t)][1] for t in _tensors((*args, *kwargs.values())) if id(t) in self.fields]
        if seen:
            field = self._after(func.__name__, args, kwargs, _union(seen), out)
            for tensor in _tensors([out]):
                self.put(tensor, field)
        return out

    def _after(self, name: str, args: tuple, kwargs: dict, field: Field, out: Any) -> Field:
        given = dict(zip(KERNELS.get(name, ("input",)), args)) | kwargs
        x, out = given.get("input"), next(_tensors([out]), None)
        if not isinstance(x, Tensor) or out is None:
            return field
        if x.dim() == 4:
            field = dataclasses.replace(field, extent=x.shape[self.axis])  # also after a crop
        if name in KERNELS:
            shape = _kernel_of(name, given, x.shape[self.axis], self.axis)
            return self._kernel(field, out, name, x.shape[1], shape, given.get("groups", 1))
        if name in ENLARGING or "pool" in name or "conv" in name:
            raise CourseError(f"The receptive field behind {name} (in {self._place() or 'forward'}) cannot be told.")
        if field.extent > 1 and (_joins_places(x, out) if name in REDUCTIONS else name == "linear" and x.dim() == 2):
            return self._kernel(field, out, name, x.shape[1], (field.extent, field.extent, 1, 0))
        return field

    def _place(self) -> str:
        return self.inside[-1] if self.inside else ""

    def _kernel(self, field: Field, out: Tensor, what: str, channels: int, shape: tuple[int, int, int, int],
                groups: int = 1) -> Field:
        kernel, stride, dilation, padding = shape
        extent = out.shape[self.axis] if out.dim() == 4 else 1
        channels_out = out.shape[1] if out.dim() > 1 else 1
        after = Field(size=field.size + dilation * (kernel - 1) * field.jump, jump=field.jump * stride,
                      left=field.left - padding * field.jump, extent=extent, rows=frozenset([len(self.rows)]))
        self.rows.append(Row(self._place(), kernel, stride, dilation, padding, field.extent,
                             extent, after.jump, after.size, what, channels, channels_out, groups, field.rows))
        return after


KERNELS = {  # torch functions that look at more than a point, and the order of their arguments
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation"),
    "max_pool2d_with_indices": ("input", "kernel_size", "stride", "padding", "dilation"),
    "avg_pool2d": ("input", "kernel_size", "stride", "padding"),
    "adaptive_avg_pool2d": ("input", "output_size"),
    "adaptive_max_pool2d": ("input", "output_size"),
    "adaptive_max_pool2d_with_indices": ("input", "output_size"),
    "pixel_unshuffle": ("input", "downscale_factor"),
}
REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "median", "logsumexp")
ENLARGING = ("interpolate", "upsample", "pixel_shuffle", "fold", "unfold")


def _kernel_of(name: str, given: dict[str, Any], extent: int, axis: int) -> tuple[int, int, int, int]:
    """Kernel, stride, dilation and padding of a call along ``axis``."""

    def of(value: Any) -> int:
        return value if isinstance(value, int) else value[axis % len(value)]

    if name.startswith("adaptive"):
        out = of(given["output_size"]) or extent  # None: as many as there are
        return -(-extent // out), max(1, extent // out), 1, 0
    if name == "pixel_unshuffle":
        return given["downscale_factor"], given["downscale_factor"], 1, 0
    if name == "conv2d":
        kernel, stride = given["weight"].shape[axis], of(given.get("stride", 1))
    else:
        kernel = of(given["kernel_size"])
        stride = of(given["stride"]) if given.get("stride") else kernel
    dilation, padding = of(given.get("dilation", 1)), given.get("padding", 0)
    padding = {"same": dilation * (kernel - 1) // 2, "valid": 0}[padding] if isinstance(padding, str) else of(padding)
    return kernel, stride, dilation, padding


def _joins_places(x: Tensor, out: Tensor) -> bool:
    """Whether a reduction of ``x`` to ``out`` goes over places: of a map (N, C, H, W), or one folded to (N, C, HW)."""
    if x.dim() == 4:
        return out.shape[-2:] != x.shape[-2:]
    return x.dim() == 3 and out.shape[:2] == x.shape[:2] and out.shape[2:] != x.shape[2:]


def _union(fields: list[Field]) -> Field:
    """The field of a sum of tensors: all that one of them sees."""
    left = min(field.left for field in fields)
    right = max(field.left + field.size for field in fields)
    maps = [field for field in fields if field.extent > 1] or fields  # the jump of a single number means nothing
    rows = frozenset().union(*(field.rows for field in fields))
    return Field(right - left, max(f.jump for f in maps), left, max(f.extent for f in fields), rows)


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
