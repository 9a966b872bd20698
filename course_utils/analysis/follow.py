"""Following what each tensor sees of the input, through whatever torch functions a network's code calls."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from course_utils.errors import CourseError

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
NORMS = {"norm": ("input", "p", "dim"), "linalg_norm": ("input", "ord", "dim"),
         "linalg_vector_norm": ("input", "ord", "dim")}
REDUCTIONS = ("mean", "sum", "amax", "amin", "max", "min", "median", "logsumexp", "var", "std", "var_mean", "std_mean",
              "argmax", "argmin", *NORMS)
SOFTMAX = ("softmax", "log_softmax", "softmin")
PRODUCTS = ("linear", "matmul", "__matmul__", "mm", "bmm")
WHOLE = ("scaled_dot_product_attention", "multi_head_attention_forward", "_native_multi_head_attention", "grid_sample",
         "grid_sampler")  # may look at every place, as the data decide
JOINING = ("cat", "concat", "concatenate")
MOVES = (*JOINING, "view", "view_as", "reshape", "reshape_as", "flatten", "unflatten", "ravel", "squeeze", "unsqueeze",
         "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "adjoint", "expand", "expand_as",
         "broadcast_to", "repeat", "tile", "repeat_interleave", "chunk", "split", "tensor_split", "unbind", "narrow",
         "select", "index_select", "flip", "roll", "rot90", "stack", "channel_shuffle", "__getitem__",
         "__get__")  # elements change their place, not their value; the last: x.T
ENLARGING = ("interpolate", "upsample", "pixel_shuffle", "fold", "conv_transpose")
MIXING = ("baddbmm", "addmm", "einsum", "cumsum", "cumprod", "cummax", "sort", "argsort", "topk", "gather",
          "take_along_dim", "diff")  # of places, in ways that are not followed
WRITING = ("__setitem__", "copy_", "index_copy_", "index_add_", "scatter", "scatter_", "scatter_add", "masked_scatter")


@dataclass(frozen=True)
class Field:
    """What the outputs of one tensor see of the input, along one axis.

    ``dim`` and ``run`` say where the outputs lie in the tensor. Seen across, a map (N, C, 2, 3) has dim -1 and run 1.
    Behind ``flatten(2)`` the six places of a channel lie along one dimension, as 0 1 2 0 1 2: still run 1, over and
    over. Seen down they lie as 0 0 0 1 1 1: run 3. In another order (several maps side by side) run is 0.
    """

    size: int = 1  # pixels that one output sees
    jump: int = 1  # pixels from one output's field to the next one's
    left: int = 0  # first pixel that the first output sees; below 0 it lies in the padding
    extent: int = 1  # outputs along the axis
    dim: int = -1  # of the tensor's dimensions the one along which they lie, counted from its end
    run: int = 1  # elements along it that belong to one output, where others were flattened into it; 0: in no order
    rows: frozenset[int] = frozenset()  # numbers of the rows whose results it is made of, by pointwise work alone

    @property
    def reach(self) -> int:
        """Pixels that all outputs together see."""
        return self.size + (self.extent - 1) * self.jump


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


class Follow(TorchFunctionMode):
    """Carries a ``Field`` along with every tensor, along ``axis`` of the input: -1 across, -2 down.

    A function that none of the tables above names counts as pointwise if it leaves the tensor as long as it was along
    the places; otherwise the field cannot be told.
    """

    def __init__(self, model: nn.Module, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.rows: list[Row] = []
        self.outputs: dict[str, Field] = {}  # of modules, by name
        self.fields: dict[int, tuple[Tensor, Field]] = {}  # by id; the tensor is kept, so that no id comes again
        self.names = {module: name for name, module in model.named_modules()}
        self.inside: list[str] = []
        self.hooks = [hook for module in model.modules() for hook in (
            module.register_forward_pre_hook(lambda module, _: self.inside.append(self.names[module])),
            module.register_forward_hook(lambda _, __, output: self._leave(output)))]

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        for hook in self.hooks:
            hook.remove()

    def put(self, tensor: Tensor, field: Field) -> None:
        """From here on ``tensor`` is known to see ``field``."""
        self.fields[id(tensor)] = (tensor, field)

    def _leave(self, output: Any) -> None:
        name = self.inside.pop()
        if id(output) in self.fields:
            self.outputs[name] = self.fields[id(output)][1]

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs, name = kwargs or {}, func.__name__
        out = func(*args, **kwargs)
        given = args[:1] if name.endswith("_as") else (*args, *kwargs.values())  # the other one gives a shape alone
        seen = [self.fields[id(t)][1] for t in _tensors(given) if id(t) in self.fields]
        outs = list(_tensors([out]))
        onto_part = name[-1] == "_" != name[-2] and len(seen) > 1 and args[0]._is_view()
        if (name in WRITING or onto_part) and any(field.extent > 1 for field in seen):
            raise self.lost(name)
        if not seen or not outs or name.startswith("new_") or name.endswith("_like"):
            return out
        if name in MOVES:
            found = self._moved(func, args, kwargs, seen)
        else:
            found = [self._after(name, args, kwargs, self._union(seen, name), outs)] * len(outs)
        for tensor, field in zip(outs, found):
            self.put(tensor, field)
        return out

    def lost(self, name: str) -> CourseError:
        """The error for a function that is not followed."""
        place = self.inside[-1] if self.inside else ""
        return CourseError(f"The receptive field behind {name} (in {place or 'forward'}) cannot be told.")

    def _after(self, name: str, args: tuple, kwargs: dict, field: Field, outs: list[Tensor]) -> Field:
        given = dict(zip((KERNELS | NORMS).get(name, ("input", "dim")), args)) | kwargs
        if name in KERNELS:
            return self._slid(name, given, field, outs[0])
        if field.extent == 1:
            return field
        tensors = [t for t in _tensors((*args, *kwargs.values())) if id(t) in self.fields]
        x = next(t for t in tensors if self.fields[id(t)][1].extent > 1)  # the map, not a factor written before it
        two = isinstance(given.get("other", given.get("dim")), Tensor)  # max of two tensors is pointwise
        if name in REDUCTIONS and not two:
            return self._reduced(name, x, given, field, outs[0])
        if name in PRODUCTS:
            return self._multiplied(name, [*_tensors((*args, *kwargs.values()))][:2], field, outs[0])
        if name == "pad":
            return self._padded(args, kwargs, field)
        if name in WHOLE or (name in SOFTMAX and field.dim in _dims(given, x)):
            same = outs[0].shape[field.dim] == x.shape[field.dim]
            after = replace(_everywhere(field), extent=field.extent if same else outs[0].shape[field.dim])
            return self._row(name, (field.extent, 1, 1, 0), field, after, (x.shape[1], outs[0].shape[1]))
        unlike = any(t.dim() < -field.dim or t.shape[field.dim] != x.shape[field.dim] for t in outs)
        if unlike or name in MIXING or any(part in name for part in (*ENLARGING, "pool", "conv", "fft_")):
            raise self.lost(name)
        return field

    def _union(self, fields: Sequence[Field], name: str) -> Field:
        """What a sum of tensors sees: all that one of them sees."""
        maps = [field for field in fields if field.extent > 1]
        if len({(field.dim, field.extent, field.run) for field in maps}) > 1 and name not in (*MOVES, *PRODUCTS):
            raise self.lost(name)
        maps = maps or fields  # the jump of a single number means nothing
        jump = max(field.jump for field in maps)
        last = (maps[0].extent - 1) * jump  # the last output sees a single number as the first does
        left = min(field.left - (last if field.extent == 1 else 0) for field in fields)
        right = max(field.left + field.size for field in fields)
        rows = frozenset().union(*(field.rows for field in fields))
        return replace(maps[0], size=right - left, left=left, jump=jump, rows=rows)

    def _row(self, what: str, shape: tuple[int, int, int, int], field: Field, after: Field,
             channels: tuple[int, int], groups: int = 1) -> Field:
        self.rows.append(Row(self.inside[-1] if self.inside else "", *shape, field.extent, after.extent, after.jump,
                             after.size, what, *channels, groups, field.rows))
        return replace(after, rows=frozenset([len(self.rows) - 1]))

    def _slid(self, name: str, given: dict[str, Any], field: Field, out: Tensor) -> Field:
        x = given["input"]
        if field.extent > 1 and (field.dim != self.axis or field.run != 1 or x.shape[self.axis] != field.extent):
            raise self.lost(name)
        if field.extent == 1 < x.shape[self.axis]:  # a single number laid over many places
            field = replace(field, jump=0)
        field = replace(field, extent=x.shape[self.axis])
        kernel, stride, dilation, padding = shape = _kernel_of(name, given, field.extent, self.axis)
        after = replace(field, size=field.size + dilation * (kernel - 1) * field.jump, jump=field.jump * stride,
                        left=field.left - padding * field.jump, extent=out.shape[self.axis], dim=self.axis)
        return self._row(name, shape, field, after, (x.shape[1], out.shape[1]), given.get("groups", 1))

    def _joined(self, what: str, x: Tensor, field: Field, out: Tensor) -> Field:
        """One number of all places."""
        after = replace(field, size=field.reach, jump=field.jump * field.extent, extent=1, dim=-1, run=1)
        channels = [tensor.shape[1] if tensor.dim() > 1 else 1 for tensor in (x, out)]
        return self._row(what, (field.extent, field.extent, 1, 0), field, after, tuple(channels))

    def _reduced(self, name: str, x: Tensor, given: dict[str, Any], field: Field, out: Tensor) -> Field:
        gone = _dims(given, x)
        if field.dim in gone:
            return self._joined(name, x, field, out)
        shift = 0 if out.dim() == x.dim() else sum(dim > field.dim for dim in gone)
        return replace(field, dim=field.dim + shift)

    def _multiplied(self, name: str, pair: Sequence[Tensor], field: Field, out: Tensor) -> Field:
        """A product of matrices takes sums along -1 of the first and -2 of the second; ``linear``'s is laid over."""
        first, second = (self.fields[id(t)][1] if id(t) in self.fields else Field() for t in pair)
        if first.extent > 1 and second.extent > 1:  # attention by hand: each place of the one with each of the other
            field = _everywhere(field)
        elif first.extent > 1 and first.dim != -1:
            return self._row("linear", (1, 1, 1, 0), field, field, (pair[0].shape[-1], out.shape[-1]))  # a 1x1
        if first.extent > 1 and first.dim != -1:
            return replace(field, dim=first.dim, extent=first.extent, run=first.run)
        if second.extent > 1 and second.dim != -2 and name != "linear":
            return replace(field, dim=second.dim, extent=second.extent, run=second.run)
        return self._joined("linear", pair[0] if first.extent > 1 else pair[1], field, out)

    def _padded(self, args: tuple, kwargs: dict, field: Field) -> Field:
        amounts = [*(args[1] if len(args) > 1 else kwargs["pad"])]
        before, behind = [*amounts, *[0] * 8][2 * (-field.dim - 1):][:2]
        if (before or behind) and field.run != 1:
            raise self.lost("pad")
        return replace(field, left=field.left - before * field.jump, extent=field.extent + before + behind)

    def _moved(self, func: Callable, args: tuple, kwargs: dict, seen: Sequence[Field]) -> list[Field]:
        """Where the outputs lie after elements were moved: the same is done to tensors that hold places."""
        field = self._union(seen, func.__name__)

        def places(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return type(value)(map(places, value))
            if id(value) in self.fields:
                one = self.fields[id(value)][1]
                if not value.is_floating_point() and value is not next(_tensors(args)):
                    raise self.lost(func.__name__)  # an index that the data decide
                if one.extent == 1:  # beside a map it is something else
                    return torch.full(value.shape, 0.0 if field.extent == 1 else -1.0)
                return _numbered(value, one)
            return torch.full_like(value, -1) if isinstance(value, Tensor) and value.is_floating_point() else value

        moved = _tensors([func(*places(args), **{key: places(value) for key, value in kwargs.items()})])
        found = [_lying(tensor, field) for tensor in moved]
        maps = {(one.extent, one.jump) for one in seen if one.extent > 1}
        if func.__name__ in JOINING and (None in found or len(maps) > 1):  # numbers of several maps side by side
            dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
            left = min(one.left for one in seen)
            wide = max(one.left + one.reach for one in seen) - left
            found = [replace(field, left=left, size=wide - (field.extent - 1) * field.jump, run=0,
                             dim=dim - next(_tensors(args)).dim() if dim >= 0 else dim)]
        if None in found:
            raise self.lost(func.__name__)
        return found


def _everywhere(field: Field) -> Field:
    """``field`` when every output sees what all of them see."""
    wide = (field.extent - 1) * field.jump
    return replace(field, size=field.reach + wide, left=field.left - wide)


def _numbered(tensor: Tensor, field: Field) -> Tensor:
    """Of each element of ``tensor`` the number of the output it belongs to."""
    numbers = torch.arange(tensor.shape[field.dim], dtype=torch.float32)
    if field.run:
        numbers = torch.div(numbers, field.run, rounding_mode="floor") % field.extent
    return numbers.view(-1, *[1] * (-field.dim - 1)).expand(tensor.shape).contiguous()


def _lying(places: Tensor, field: Field) -> Field | None:
    """``field`` as its outputs lie in a tensor of ``places`` (below 0: of something else); ``None``: in no order."""
    known = places[places >= 0]
    if field.extent == 1 or len(known) == 0 or known.min() == known.max():
        if field.run == 0:
            return replace(field, size=field.reach, extent=1, dim=-1, run=1)
        first = int(known.min()) if len(known) else 0
        return replace(field, left=field.left + first * field.jump, extent=1, dim=-1, run=1)
    for dim in range(-1, -places.dim() - 1, -1):
        slices = places.movedim(dim, 0).flatten(1)
        numbers = slices.amax(1)
        if torch.equal(numbers, slices.where(slices >= 0, numbers[:, None]).amin(1)) and numbers.min() >= 0:
            return _in_order(numbers.long().tolist(), dim, field)
    return None


def _in_order(numbers: list[int], dim: int, field: Field) -> Field | None:
    """``field`` along a dimension that holds these places: each ``run`` times, evenly spaced, over and over."""
    if field.run == 0:
        return replace(field, dim=dim)
    run = next(k for k, number in enumerate(numbers) if number != numbers[0])
    once = numbers[::run]
    extent = next((k for k, number in enumerate(once) if k and number == once[0]), len(once))
    step = once[1] - once[0]
    if numbers != [once[0] + step * (k // run % extent) for k in range(len(numbers))]:
        return None
    return replace(field, left=field.left + min(numbers) * field.jump, jump=field.jump * abs(step), extent=extent,
                   dim=dim, run=run)


def _kernel_of(name: str, given: dict[str, Any], extent: int, axis: int) -> tuple[int, int, int, int]:
    """Kernel, stride, dilation and padding of a call along ``axis``."""

    def of(value: Any) -> int:
        return value if isinstance(value, int) else value[axis % len(value)]

    if name.startswith("adaptive"):
        out = of(given["output_size"]) or extent  # None: as many as there are
        stride = extent // out  # 0: enlarged
        return extent - (out - 1) * stride, stride, 1, 0
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


def _dims(given: dict[str, Any], x: Tensor) -> set[int]:
    """The dimensions of ``x`` that a call works along, counted from the end; all, where it names none."""
    dims = given.get("dim", given.get("axis"))
    if dims is None or isinstance(dims, bool) or dims == ():
        return set(range(-x.dim(), 0))
    return {dim % x.dim() - x.dim() for dim in ([dims] if isinstance(dims, int) else dims)}


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)
