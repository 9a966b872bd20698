"""Receptive fields: how many input pixels one output of a layer depends on.

The network runs once on zeros while a ``TorchFunctionMode`` follows every tensor: convolutions and pooling by
arithmetic (``fields.py``), every other function by measuring (``dependence.py``). Where an output depends on several
columns but not on all, the receptive field is unknown; that is never an error.
"""
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from course_utils.analysis.dependence import find_tensors, measure
from course_utils.analysis.fields import WINDOW_OPS, Field, Layer, find_window, union
from course_utils.models.summary import Shape, eval_mode

POINTWISE = ("relu", "relu_", "leaky_relu", "gelu", "silu", "dropout", "add", "__add__", "__iadd__")  # not measured
NORMS = ("batch_norm", "group_norm", "instance_norm", "layer_norm", "rms_norm")  # count as pointwise, as is usual
SAMPLING = ("grid_sample", "grid_sampler")  # look at places that the data decide
PRODUCTS = ("linear", "matmul", "__matmul__", "mm", "bmm")
TO_PYTHON = ("numpy", "tolist", "item", "__array__")  # what a network does with these numbers cannot be followed


@dataclass(frozen=True)
class _Traced:
    """A tensor that depends on the input; it is kept, so that its id stays unique."""

    tensor: Tensor
    field: Field
    columns: Tensor | None  # of each element the number of its column, -1 for a constant; None if length is 1
    version: int  # that of the tensor, until something writes into it


Found = tuple[Field, Tensor | None] | None  # field and columns of a result; None: it does not depend on the input


class FieldTracer(TorchFunctionMode):
    """Follows the ``Field`` of every tensor along ``axis`` of the input: -1 across, -2 down."""

    def __init__(self, model: nn.Module, x: Tensor, axis: int) -> None:
        super().__init__()
        self.axis, self.layers, self.outputs = axis, [], {}
        self.unknown_after = ""  # the first function that was not followed, and where
        self._stack: list[str] = []
        self._traced = {id(x): _Traced(x, Field(length=x.shape[axis]), self._grid(x), _version(x))}
        names = {module: name for name, module in model.named_modules()}
        self._hooks = [hook for module in model.modules() for hook in (
            module.register_forward_pre_hook(lambda m, _: self._stack.append(names[m])),
            module.register_forward_hook(lambda m, _, output: self._leave(output)))]

    def __exit__(self, *details: object) -> None:
        super().__exit__(*details)
        for hook in self._hooks:
            hook.remove()

    def _leave(self, output: Any) -> None:
        name = self._stack.pop()
        if id(output) in self._traced:
            self.outputs[name] = self._traced[id(output)].field

    def finish(self, output: Any) -> None:
        """Take note of what the network returned: it must have been followed."""
        if not any(id(tensor) in self._traced for tensor in find_tensors([output])):
            self._lose("code that is not a torch function")

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name, kwargs = func.__name__, kwargs or {}
        given = [*find_tensors([*args, *kwargs.values()])]
        versions = [_version(tensor) for tensor in given]
        inputs = [self._traced[id(tensor)] for tensor in given if id(tensor) in self._traced]
        stale = any(_version(traced.tensor) != traced.version for traced in inputs)
        out = func(*args, **kwargs)
        written = [tensor for tensor, version in zip(given, versions) if _version(tensor) != version]
        results = [*find_tensors([out])] or written
        if inputs and name in TO_PYTHON:
            self._lose(name)
        if not inputs or not results or name in ("empty_like", "new_empty"):
            return out
        try:
            if stale:  # something has written into an input through another tensor
                self._lose(name)
                inputs = [_Traced(old.tensor, *self._restart(old.field, old.tensor), old.version) for old in inputs]
            found = self._after(func, args, kwargs, inputs, results, bool(written))
        except Exception:  # whatever an unusual call may raise here: the network itself has run
            self._lose(name)
            found = [self._restart(inputs[0].field, result) for result in results]
        for result, after in zip(results, found, strict=True):
            if after is not None:
                self._traced[id(result)] = _Traced(result, *after, _version(result))
        for base in (tensor._base for tensor in written if tensor._base is not None):
            self._traced[id(base)] = _Traced(base, *self._restart(inputs[0].field, base), version=-1)  # stale
        return out

    def _after(self, func: Callable, args: tuple, kwargs: dict, inputs: list[_Traced], results: list[Tensor],
               writes: bool) -> list[Found]:
        """What is known about each result."""
        name, out, x = func.__name__, results[0], max(inputs, key=lambda traced: traced.field.length)
        field = union([traced.field for traced in inputs])
        if name in WINDOW_OPS:
            given = dict(zip(WINDOW_OPS[name], args)) | kwargs
            x = next(traced for traced in inputs if traced.tensor is given["input"])
            return [(self._slide(name, given, x, field, out), self._grid(out))] * len(results)
        if field.length == 1:
            return [(field, None) if field.known else self._restart(field, result) for result in results]
        if name == "pad" and self._is_grid(x):
            before = [*(args[1] if len(args) > 1 else kwargs["pad"]), 0, 0][0 if self.axis == -1 else 2]
            after = replace(field, start=field.start - before * field.jump, length=out.shape[self.axis])
            return [(after, self._grid(out))]
        if name in SAMPLING and out.dim() == 4 and out.shape[self.axis] <= field.length:
            extra = (field.length - 1) * field.jump
            after = replace(field, size=field.span + extra, start=field.start - extra, length=out.shape[self.axis])
            return [(self._add(name, (field.length, 1, 1, 0), field, after, x.tensor, out), self._grid(out))]
        maps = [traced for traced in inputs if traced.field.length > 1]
        if out.shape == x.tensor.shape and (name in NORMS or (name in POINTWISE and all(
                traced.columns.shape == out.shape and torch.equal(traced.columns, x.columns) for traced in maps))):
            return [(field, x.columns)]
        return self._measured(func, args, kwargs, inputs, field, results, writes)

    def _measured(self, func: Callable, args: tuple, kwargs: dict, inputs: list[_Traced], field: Field,
                  results: list[Tensor], writes: bool) -> list[Found]:
        """What is known about the results of a function without a rule of its own."""
        x = max(inputs, key=lambda traced: traced.field.length).tensor
        columns = {id(traced.tensor): traced.columns if traced.field.length == field.length else None
                   for traced in inputs}
        singles = [traced.field for traced in inputs if traced.field.length == 1]
        op, found = "linear" if func.__name__ in PRODUCTS else func.__name__, []
        places = measure(func, args, kwargs, columns, field.length, copy=writes)
        for result, numbers in zip(results, places, strict=True):
            if numbers is False:
                raise ValueError("an output depends on several columns, but not on all")
            if numbers is True:
                after = replace(field, size=field.span, jump=field.jump * field.length, length=1)
                if not found:  # one layer, however many results
                    after = self._add(op, (field.length, field.length, 1, 0), field, after, x, result)
                found.append((replace(after, layers=found[0][0].layers) if found else after, None))
            elif bool((numbers < 0).all()):
                found.append((union(singles), None) if singles else None)
            else:
                after, numbers = self._renumbered(field, numbers, result)
                if op == "linear" and not found:  # a 1x1 convolution in another form
                    after = self._add(op, (1, 1, 1, 0), field, after, x, result)
                found.append((after, numbers))
        return found

    def _renumbered(self, field: Field, numbers: Tensor, result: Tensor) -> tuple[Field, Tensor]:
        """``field`` and the columns' numbers, 0, 1, 2, ..., when only the ``numbers`` are left of its columns."""
        left = numbers.unique()
        left = left[left >= 0]
        steps = left.diff().unique()
        if len(steps) != 1:
            raise ValueError("a single column, or unequal distances")
        numbers = torch.where(numbers < 0, -1, (numbers - left[0]) // steps[0])
        after = replace(field, start=field.start + int(left[0]) * field.jump, jump=field.jump * int(steps[0]),
                        length=len(left))
        grid = self._grid(result)  # constants belong to any column
        same = grid is not None and torch.equal(numbers.where(numbers >= 0, grid), grid)
        return after, grid if same else numbers

    def _slide(self, name: str, given: dict[str, Any], x: _Traced, field: Field, out: Tensor) -> Field:
        """The field after a function of a window."""
        size_in, size_out = x.tensor.shape[self.axis], out.shape[self.axis]
        if x.field.length != field.length or (field.length > 1 and not self._is_grid(x)):  # in another order
            self._lose(name)
            field = replace(field, known=False, length=size_in)
        window = kernel, stride, dilation, padding = find_window(name, given, size_in, self.axis)
        jump = 0 if field.length == 1 < size_in else field.jump  # 0: a single number at every place
        after = replace(field, size=field.size + dilation * (kernel - 1) * jump, jump=jump * stride,
                        start=field.start - padding * jump, length=size_out)
        if name.startswith("adaptive") and size_in > 1 and size_in % size_out:  # windows of unequal sizes
            self._lose(name)
            after = replace(after, known=False)
        return self._add(name, window, replace(field, length=size_in), after, x.tensor, out, given.get("groups", 1))

    def _add(self, op: str, window: tuple[int, int, int, int], field: Field, after: Field, x: Tensor, out: Tensor,
             groups: int = 1) -> Field:
        """Add a layer; ``after`` as the field of its result."""
        channels = [tensor.shape[-1 if op == "linear" else 1] if tensor.dim() > 1 else 1 for tensor in (x, out)]
        self.layers.append(Layer(self._stack[-1] if self._stack else "", *window, field.length, after.length,
                                 after.jump, after.size if after.known else None, op, *channels, groups, field.layers))
        return replace(after, layers=frozenset([len(self.layers) - 1]))

    def _lose(self, name: str) -> None:
        if not self.unknown_after:
            self.unknown_after = f"{name} (in {(self._stack or [''])[-1] or 'forward'})"

    def _restart(self, field: Field, result: Tensor) -> tuple[Field, Tensor | None]:
        """For a result that was not followed: what comes after it is still listed, with an unknown field."""
        grid = self._grid(result)
        length = 1 if grid is None else result.shape[self.axis]
        return replace(field, known=False, length=length), grid if length > 1 else None

    def _grid(self, x: Tensor) -> Tensor | None:
        """The column number of each element of a map (N, C, H, W)."""
        if x.dim() != 4:
            return None
        numbers = torch.arange(x.shape[self.axis], device=x.device)
        return (numbers if self.axis == -1 else numbers[:, None]).expand(x.shape)

    def _is_grid(self, x: _Traced) -> bool:
        return x.tensor.dim() == 4 and x.columns is not None and torch.equal(x.columns, self._grid(x.tensor))


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version  # rises with every change in place, of a view as well


def trace_fields(model: nn.Module, input_size: Shape, axis: int = -1) -> FieldTracer:
    """Run ``model`` once on zeros of ``input_size`` (N, C, H, W), along ``axis``: -1 across, -2 down.

    The result has ``layers``, in order of execution, and ``outputs``: the ``Field`` of each module's output by name.
    ``unknown_after`` names the first function that could not be followed, if any.
    """
    x = torch.zeros(input_size, device=next(model.parameters(), torch.empty(0)).device)
    with torch.random.fork_rng(devices=[]), torch.no_grad(), eval_mode(model), FieldTracer(model, x, axis) as tracer:
        tracer.finish(model(x))
    return tracer


def receptive_field_table(layers: Sequence[Layer]) -> str:
    """``layers`` as lines of text, in the order of the assignment's spreadsheets."""
    head = ("layer", "kernel", "stride", "dilation", "padding", "in", "out", "jump", "field")
    lines = [head, *((layer.name or layer.op, *map(str, (
        layer.kernel, layer.stride, layer.dilation, layer.padding, layer.size_in, layer.size_out, layer.jump,
        "unknown" if layer.field is None else layer.field))) for layer in layers)]
    width = max(len(line[0]) for line in lines)
    return "\n".join(line[0].ljust(width) + "".join(cell.rjust(9) for cell in line[1:]) for line in lines)
