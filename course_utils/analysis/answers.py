"""Checks of what a student writes in a notebook: they say what was found and where to read, never the answer."""
from collections.abc import Callable, Mapping
from typing import Any

import torch

from course_utils.errors import CourseError


def check_answer(rule: str, function: Callable[..., Any], cases: Mapping[tuple, Any], read: str, hint: str) -> None:
    """Call ``function`` with the arguments of each case; print that ``rule`` holds, or raise ``CourseError``.

    A case is arguments -> expected number or tensor, which must agree to 1e-4. ``read``: the section that explains it.
    """
    for arguments, wanted in cases.items():
        call = f"{function.__name__}({', '.join(map(_short, arguments))})"
        try:
            found = torch.as_tensor(function(*arguments), dtype=torch.float64)
            wanted = torch.as_tensor(wanted, dtype=torch.float64)
            agrees = found.shape == wanted.shape and torch.allclose(found, wanted, rtol=1e-4, atol=1e-6)
            text = _short(found)
        except NotImplementedError:
            raise
        except Exception as error:
            agrees, text = False, f"{type(error).__name__}: {error}"
        if not agrees:
            raise CourseError(f"Not yet: {rule}.\nFound:  {call} gives {text}\nRead:   {read}\nHint:   {hint}")
    print(f"passed: {rule}")


def _short(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.item():.6g}" if value.dim() == 0 else f"a tensor of shape {tuple(value.shape)}"
    return repr(value)
