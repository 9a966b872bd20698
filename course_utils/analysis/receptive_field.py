"""Receptive fields: how many input pixels one output of a layer depends on.

The network runs once on zeros while a ``TorchFunctionMode`` follows every tensor. The arithmetic is that of Araujo et
al. (2019, distill.pub/2019/computing-receptive-fields): with jump j (input pixels between two neighboring outputs), a
kernel k of dilation d adds d (k - 1) j to the receptive field, and a stride s multiplies j. After an operation that is
not followed, the receptive field is unknown; that is never an error.
"""
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from course_utils.models.summary import Shape, eval_mode

WINDOW_OPS = {  # functions of a window, and the order of their arguments
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation"),
    "max_pool2d_with_indices": ("input", "kernel_size", "stride", "padding", "dilation"),
    "avg_pool2d": ("input", "kernel_size", "stride", "padding"),
    "adaptive_avg_pool2d": ("input", "output_size"),
    "adaptive_max_pool2d": ("input", "output_size"),
    "adaptive_max_pool2d_with_indices": ("input", "output_size"),
}
PRODUCTS = ("linear", "matmul", "__matmul__", "mm", "bmm")
REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "norm", "logsumexp",
              "nanmean", "std_mean", *PRODUCTS)
MOVES = ("permute", "transpose", "movedim", "moveaxis", "swapaxes", "swapdims", "t", "__get__", "__getitem__", "select",
         "narrow", "index_select", "flip")  # followed where they leave rows and columns in place
NOT_FOLLOWED = ("conv", "pool", "attention", "roll", "sort", "einsum", "cum", "copy_", "scatter", "__setitem__", "fft",
                "index_", "gather", "topk", "rot90", "take", "fold")  # parts of names
LEAKS = ("item", "tolist", "numpy", "__float__", "__int__", "__bool__")


@dataclass(frozen=True)
class Field:
    """What the elements of one tensor depend on, along one axis of the input."""

    size: int = 1  # input pixels that one element depends on
    jump: int = 1  # input pixels between two neighboring elements
    start: int = 0  # first pixel of the first element; below 0 it is in the padding
    length: int = 1  # elements along the axis
    layers: frozenset[int] = frozenset()  # layers that it is computed from, with pointwise functions alone in between
    known: bool = True

    @property
    def reach(self) -> int:
        """Input pixels from the first element to the last."""
        return (self.length - 1) * self.jump


@dataclass(frozen=True)
class Layer:
    """One convolution, pooling or linear layer: a row of the receptive-field table."""

    name: str  # of the module
    kernel: int  # all sizes along one axis, in pixels of the layer's own input
    stride: int
    dilation: int
    padding: int
    size_in: int
    size_out: int
    jump: int  # input pixels between two neighboring outputs
    field: int | None  # input pixels that one output depends on; None: unknown
    op: str  # the torch function: "conv2d", "avg_pool2d", "linear", "mean", ...
    channels_in: int
    channels_out: int
    groups: int  # of a convolution; 1 elsewhere
    inputs: frozenset[int]  # numbers of the layers that it takes in, with pointwise functions alone in between


class FieldTracer(TorchFunctionMode):
    """Carries a ``Field`` along with every tensor, along ``axis`` of the input: -1 across, -2 down."""

    def __init__(self, x: Tensor, axis: int) -> None:
        super().__init__()
        self.axis, self.layers, self.outputs = axis, [], {}
        self.unknown_after = ""  # the first function that was not followed, and where
        self._leaked = False
        self.output_layers: frozenset[int] = frozenset()  # the last layers on the way to the network's output
        self.stack = [""]  # names of the modules that run
        self._fields = {id(x): (x, Field(length=x.shape[axis]))}  # keeps the tensor, so that its id stays unique

    def leave(self, output: Any) -> None:
        """Forward hook of every module."""
        name = self.stack.pop()
        if id(output) in self._fields:
            field = self._fields[id(output)][1]
            if output.dim() == 4:
                self.outputs[name] = field
            if not name:
                self.output_layers = field.layers
            if not name and field.known:  # the network's own output does not depend on what was not followed
                self.unknown_after = ""
        elif not name:
            self.unknown_after = self.unknown_after or "what torch does not show"

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func.__name__ in WINDOW_OPS and id(args[0]) not in self._fields:  # made by what no mode sees
            unseen = self._unknown("what torch does not show", Field(length=args[0].shape[self.axis]), args[0])
            self._fields[id(args[0])] = (args[0], unseen)
        inputs = [t for t in _tensors(args, kwargs) if id(t) in self._fields]
        if not inputs or (func.__name__ == "__get__" and not isinstance(out, Tensor)):  # such as x.shape
            return out
        x = max(inputs, key=lambda t: self._fields[id(t)][1].length)
        field = _union([self._fields[id(t)][1] for t in inputs])
        if func.__name__ in LEAKS and not self._leaked:  # into a Python number, which nothing follows
            self._leaked = True
            self._unknown(func.__name__, field, x)
        field = replace(field, known=field.known and not self._leaked)
        in_place = func.__name__[-1] == "_" != func.__name__[-2]
        in_part = func.__name__ == "__setitem__" or (in_place and args[0]._is_view())
        written = [t for t in (args[0], args[0]._base) if t is not None] if in_part else []
        for result in [*_tensors(out), *written] or [x]:
            try:
                after = None if written else self._after(func, args, kwargs, x, field, result)
            except (LookupError, TypeError, ValueError, RuntimeError, AttributeError):  # an unusual call
                after = None
            self._fields[id(result)] = (result, after or self._unknown(func.__name__, field, result))
        return out

    def _after(self, func: Callable, args: tuple, kwargs: dict, x: Tensor, field: Field, out: Tensor) -> Field | None:
        """The field of ``out``; ``None``: not followed."""
        name = func.__name__
        if name in WINDOW_OPS:
            given = dict(zip(WINDOW_OPS[name], args)) | kwargs
            window = kernel, stride, dilation, padding = _window(name, given, x.shape[self.axis], self.axis)
            after = replace(field, size=field.size + dilation * (kernel - 1) * field.jump, jump=field.jump * stride,
                            start=field.start - padding * field.jump, length=out.shape[self.axis])
            return self._add(name, window, field, after, x, out, given.get("groups", 1))
        if "max_pool" in name:  # of another dimension: counted, not followed
            return self._add(name, (1, 1, 1, 0), field, self._unknown(name, field, out), x, out)
        if field.length == 1:
            return field
        if name == "linear" and not field.known and x.dim() > 2:  # channels last: a 1x1 convolution
            return self._add("linear", (1, 1, 1, 0), field, field, x, out)
        if name.startswith("grid_sample"):  # may look at every place, as the data decide
            after = replace(field, size=field.size + 2 * field.reach, start=field.start - field.reach)
            return self._add(name, (field.length, field.length, 1, 0), field, after, x, out)
        if name in ("avg_pool1d", "adaptive_avg_pool1d") and x.dim() == 3 and out.shape[-1] == 1:
            name, args, kwargs = "mean", args[:1], {}
        if name == "einsum" and out.dim() == 2 and len(_tensors(args)) == 1:
            name, args, kwargs = "sum", args[:1], {}
        if any(part in name for part in NOT_FOLLOWED) or (name in MOVES and not _keeps_last_axes(func, args, kwargs)):
            return None
        if name in ("softmax", "log_softmax") and out.dim() > 2 and kwargs.get("dim", (*args, 1)[1]) not in (1, -3):
            return None
        if name == "pad" and out.dim() == 4:
            before = [*(args[1] if len(args) > 1 else kwargs["pad"]), 0, 0][0 if self.axis == -1 else 2]
            return replace(field, start=field.start - before * field.jump, length=out.shape[self.axis])
        if out.dim() >= 4 and out.shape[-2:] == x.shape[-2:]:  # pointwise
            return field
        if name in REDUCTIONS and name not in (*PRODUCTS, "norm"):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            dims = set() if dim is None else {d % x.dim() for d in ([dim] if isinstance(dim, int) else dim)}
            if dims and field.known and (dims == {1} if x.dim() == 3 else x.dim() == 4 and self.axis % 4 not in dims):
                return field  # the mean of channels, or along the other axis
        if name in REDUCTIONS:
            if out.numel() > 1 and (x.dim() > 4 or (out.dim() == 4 and out.shape[-2:] != (1, 1)) or out.dim() > 4):
                return None
            after = replace(field, size=field.size + field.reach, length=1)
            op = "linear" if name in PRODUCTS else name
            return self._add(op, (field.length, field.length, 1, 0), field, after, x, out)
        return None if out.dim() == 4 else field  # else reshaped, for a linear layer

    def _unknown(self, name: str, field: Field, out: Tensor) -> Field:
        self.unknown_after = self.unknown_after or f"{name} (in {self.stack[-1] or 'forward'})"
        return replace(field, known=False, length=out.shape[self.axis] if out.dim() == 4 else field.length)

    def _add(self, op: str, window: tuple[int, int, int, int], field: Field, after: Field, x: Tensor, out: Tensor,
             groups: int = 1) -> Field:
        channels = [t.shape[1] if t.dim() > 1 else 1 for t in (x, out)]
        self.layers.append(Layer(self.stack[-1], *window, field.length, after.length, after.jump,
                                 after.size if after.known else None, op, *channels, groups, field.layers))
        return replace(after, layers=frozenset([len(self.layers) - 1]))


def _union(fields: Sequence[Field]) -> Field:
    """What a sum depends on: all that one of its terms does. A single number is broadcast to every place."""
    longest = max(fields, key=lambda field: field.length)
    start = min(field.start - (longest.reach if field.length == 1 else 0) for field in fields)
    end = max(field.start + field.size for field in fields)
    return replace(longest, size=end - start, start=start, known=all(field.known for field in fields),
                   layers=frozenset().union(*(field.layers for field in fields)))


def _keeps_last_axes(func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether ``func`` leaves rows and columns where they are; tried on a tensor of place numbers."""
    x = args[0]
    places = torch.arange(x.shape[-2] * x.shape[-1]).view(x.shape[-2:])
    moved = func(places.expand(x.shape), *args[1:], **kwargs)
    return moved.shape[-2:] == places.shape and torch.equal(moved, places.expand(moved.shape))


def _window(name: str, given: dict[str, Any], length: int, axis: int) -> tuple[int, int, int, int]:
    """Kernel, stride, dilation and padding of a call along ``axis``. Raises ``ValueError`` for an uneven pooling."""

    def of(value: Any) -> int:
        return value if isinstance(value, int) else value[axis % len(value)]

    if name.startswith("adaptive"):
        size = of(given["output_size"]) or length
        if length % size and size % length:
            raise ValueError(f"{length} places do not divide into {size}")
        return length - (size - 1) * (length // size), length // size, 1, 0
    kernel = given["weight"].shape[axis] if name == "conv2d" else of(given["kernel_size"])
    stride = of(given.get("stride") or (1 if name == "conv2d" else kernel))
    dilation, padding = of(given.get("dilation", 1)), given.get("padding", 0)
    if isinstance(padding, str):
        padding = {"same": dilation * (kernel - 1) // 2, "valid": 0}[padding]
    return kernel, stride, dilation, of(padding)


def _tensors(*values: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def trace_fields(model: nn.Module, input_size: Shape, axis: int = -1) -> FieldTracer:
    """Run ``model`` once on zeros of ``input_size`` (N, C, H, W). The result has ``layers``, in order of execution, and
    ``outputs``: the ``Field`` of each module's output by name. Normalization layers that take statistics from the whole
    image are not counted as seeing it, as is usual.
    """
    x = torch.zeros(input_size, device=next(model.parameters(), torch.empty(0)).device)
    with eval_mode(model), torch.no_grad(), torch.random.fork_rng(devices=[]), contextlib.ExitStack() as hooks:
        tracer = hooks.enter_context(FieldTracer(x, axis))
        for name, module in model.named_modules():
            hooks.enter_context(module.register_forward_pre_hook(lambda *_, name=name: tracer.stack.append(name)))
            hooks.enter_context(module.register_forward_hook(lambda *arguments: tracer.leave(arguments[-1])))
        model(x)
    return tracer


def receptive_field_table(layers: Sequence[Layer]) -> str:
    """``layers`` as lines of text, in the order of the assignment's spreadsheets."""
    rows = [("layer", "kernel", "stride", "dilation", "padding", "in", "out", "jump", "field")]
    rows += [(layer.name or layer.op, layer.kernel, layer.stride, layer.dilation, layer.padding, layer.size_in,
              layer.size_out, layer.jump, "unknown" if layer.field is None else layer.field) for layer in layers]
    width = max(len(row[0]) for row in rows)
    return "\n".join(name.ljust(width) + "".join(f"{cell:>9}" for cell in cells) for name, *cells in rows)
