"""Which columns of its inputs a torch function's outputs depend on, measured by calling it with changed columns."""
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

CHANGE = 10.0  # added to and subtracted from inputs between 0.2 and 0.9: this changes minima and maxima, too


def measure(func: Callable, args: tuple, kwargs: dict, columns: Mapping[int, Tensor | None], count: int,
            copy: bool) -> list[Tensor | bool]:
    """What each output tensor of ``func(*args, **kwargs)`` depends on.

    ``columns`` has, by id, every input tensor that matters: of each element the number of its column, 0 to count - 1,
    or -1; None for a tensor without columns. The result is, for each output: the same numbers where each element
    depends on one column or none; True where all elements depend on all columns (some are tried); False otherwise.
    ``copy`` protects inputs of functions that write into them.
    """
    generator = torch.Generator().manual_seed(0)
    values = {id(t): _value(t, id(t) in columns, generator) for t in find_tensors([*args, *kwargs.values()])}

    def call(changed: Tensor, change: float) -> list[Tensor]:
        def replace(value: Any) -> Any:
            if isinstance(value, (tuple, list)):
                return type(value)([replace(item) for item in value])
            if not isinstance(value, Tensor):
                return value
            new, places = values[id(value)], columns.get(id(value))
            if places is None or change == 0:
                return new.clone() if copy else new
            return new + (changed[places] * change).to(new.dtype)

        torch.default_generator.manual_seed(0)  # the same dropout in each call
        given, named = replace(args), {key: replace(value) for key, value in kwargs.items()}
        out = func(*given, **named)
        return [*find_tensors([given[0] if out is None else out])]

    device = next(places.device for places in columns.values() if places is not None)
    number = torch.arange(count + 1, device=device)  # the last one is never changed: numbers of -1 refer to it
    none = torch.zeros(count + 1, dtype=torch.bool, device=device)
    base = call(none, 0)

    def touched(changed: Tensor) -> list[Tensor]:
        changed = changed & (number < count)
        calls = [call(changed, change) for change in (CHANGE, -CHANGE)]
        return [(first != more) | (first != less) for first, more, less in zip(base, *calls)]

    bits = range((count - 1).bit_length())
    pairs = [(touched(number >> bit & 1 == 0), touched(number >> bit & 1 == 1)) for bit in bits]
    results: list[Tensor | bool] = []
    for k in range(len(base)):
        zeros, ones = (torch.stack([pair[side][k] for pair in pairs]) for side in (0, 1))
        one, nothing = (zeros ^ ones).all(0), ~(zeros | ones).any(0)
        found = sum(ones[bit].long() << bit for bit in bits)
        results.append(found.where(one, -1) if bool((one | nothing).all()) else False)
    if any(result is False for result in results):
        each = [touched(number == column) for column in {0, 1, count // 2, count - 1}]  # enough to recognize all
        results = [all(bool(on[k].all()) for on in each) if result is False else result
                   for k, result in enumerate(results)]
    return results


def _value(tensor: Tensor, matters: bool, generator: torch.Generator) -> Tensor:
    """Random values for inputs that matter, and for zeros, which would hide a dependence; else the tensor itself."""
    if tensor.is_floating_point():
        if matters or not tensor.any():
            return (torch.rand(tensor.shape, generator=generator) * 0.7 + 0.2).to(tensor)
    elif matters:
        return torch.zeros_like(tensor)
    return tensor


def find_tensors(values: Any) -> Iterator[Tensor]:
    """All tensors in nested tuples and lists."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from find_tensors(value)
