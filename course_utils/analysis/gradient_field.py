"""Receptive fields measured by gradients: a check of the arithmetic, and the effective receptive field."""
import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from course_utils.analysis.receptive_field import WINDOW_OPS
from course_utils.models.summary import Shape


def gradient_field(model: nn.Module, input_size: Shape, draws: int = 1, seed: int = 0, positive: bool = True) -> Tensor:
    """float32 (H, W): mean absolute gradient of the central output with respect to each input pixel, over ``draws``.

    With ``positive`` random weights nothing cancels, no ReLU is inactive and max pooling becomes average pooling: the
    extent of what is not 0 is the theoretical receptive field. Otherwise the weights are random around 0, which shows
    the effective receptive field (Luo et al. 2016, arXiv:1701.04128). The output is the center of the last feature map
    (N, C, H, W), H > 1; later layers may reject this image size.
    """
    total, generator = torch.zeros(input_size[2:]), torch.Generator().manual_seed(seed)
    model = copy.deepcopy(model).eval()
    for _ in range(draws):
        _randomize(model, generator, positive)
        x = (torch.rand(input_size, generator=generator) - (0 if positive else 0.5)).requires_grad_()
        with _LastMap(smooth=positive) as last, contextlib.suppress(RuntimeError):
            model(x)
        center = last.map[:, :, last.map.shape[2] // 2, last.map.shape[3] // 2]
        total += torch.autograd.grad(center.sum(), x)[0].abs().sum((0, 1))
    return total / draws


def _randomize(model: nn.Module, generator: torch.Generator, positive: bool) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            if positive or parameter.dim() > 1:  # else batch norm and biases keep their values
                inputs = parameter[0].numel() if parameter.dim() > 1 else 1
                u = torch.rand(parameter.shape, generator=generator)
                parameter.copy_((u + 0.1) / inputs if positive else (2 * u - 1) * (6 / inputs) ** 0.5)  # He et al. 2015


class _LastMap(TorchFunctionMode):
    """Remembers the last result that is a feature map; ``smooth`` replaces max pooling by average pooling."""

    def __init__(self, smooth: bool) -> None:
        super().__init__()
        self.smooth, self.map = smooth, torch.zeros(0)

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.smooth and func.__name__ == "max_pool2d":
            given = dict(zip(WINDOW_OPS["max_pool2d"], args)) | kwargs
            known = ("input", "kernel_size", "stride", "padding", "ceil_mode")
            func, args, kwargs = F.avg_pool2d, (), {name: given[name] for name in known if name in given}
        out = func(*args, **kwargs)
        if isinstance(out, Tensor) and out.dim() == 4 and min(out.shape[2:]) > 1 and out.requires_grad:
            self.map = out
        return out
