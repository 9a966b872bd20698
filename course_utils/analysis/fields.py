"""The arithmetic of receptive fields, of one axis of an image (Araujo et al. 2019).

With jump j (input pixels between two neighboring outputs), a kernel k of dilation d adds d (k - 1) j to the receptive
field, and a stride s multiplies j (distill.pub/2019/computing-receptive-fields).
"""
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

WINDOW_OPS = {  # functions of a window, and the order of their arguments
    "conv2d": ("input", "weight", "bias", "stride", "padding", "dilation", "groups"),
    "max_pool2d": ("input", "kernel_size", "stride", "padding", "dilation"),
    "max_pool2d_with_indices": ("input", "kernel_size", "stride", "padding", "dilation"),
    "avg_pool2d": ("input", "kernel_size", "stride", "padding"),
    "adaptive_avg_pool2d": ("input", "output_size"),
    "adaptive_max_pool2d": ("input", "output_size"),
    "adaptive_max_pool2d_with_indices": ("input", "output_size"),
}


@dataclass(frozen=True)
class Field:
    """What the columns of one tensor depend on, along one axis of the input."""

    size: int = 1  # input pixels that one column depends on
    jump: int = 1  # input pixels between two neighboring columns
    start: int = 0  # first pixel of the first column; below 0 it is in the padding
    length: int = 1  # columns; 1: all elements depend on the same pixels
    layers: frozenset[int] = frozenset()  # layers that it is computed from, with pointwise functions alone in between
    known: bool = True

    @property
    def span(self) -> int:
        """Input pixels that all columns together depend on."""
        return self.size + (self.length - 1) * self.jump


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


def union(fields: Sequence[Field]) -> Field:
    """What a sum depends on: all that one of its terms does. A single number is broadcast to every place."""
    longest = max(fields, key=lambda field: (field.length > 1 and field.jump > 0, field.length))
    singles = [field for field in fields if field.length == 1 or field.jump == 0]
    if any((field.length, field.jump) != (longest.length, longest.jump) for field in fields if field not in singles):
        raise ValueError("columns of different distances")
    last = (longest.length - 1) * longest.jump
    start = min(field.start - (last if field in singles else 0) for field in fields)
    end = max(field.start + field.size for field in fields)
    return replace(longest, size=end - start, start=start, known=all(field.known for field in fields),
                   layers=frozenset().union(*(field.layers for field in fields)))


def find_window(name: str, given: dict[str, Any], length: int, axis: int) -> tuple[int, int, int, int]:
    """Kernel, stride, dilation and padding of a call along ``axis``."""

    def of(value: Any) -> int:
        return value if isinstance(value, int) else value[axis % len(value)]

    if name.startswith("adaptive"):
        size = of(given["output_size"]) or length
        return length - (size - 1) * (length // size), length // size, 1, 0
    kernel = given["weight"].shape[axis] if name == "conv2d" else of(given["kernel_size"])
    stride = of(given.get("stride") or (1 if name == "conv2d" else kernel))
    dilation, padding = of(given.get("dilation", 1)), given.get("padding", 0)
    if isinstance(padding, str):
        padding = {"same": dilation * (kernel - 1) // 2, "valid": 0}[padding]
    return kernel, stride, dilation, of(padding)
