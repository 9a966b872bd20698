"""Blocks that the networks of the course share."""
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]  # makes a normalization layer for its number of channels


def conv_block(inputs: int, outputs: int, pool: bool = False, dropout: float = 0.0) -> list[nn.Module]:
    """3x3 convolution, optional 2x2 max pooling, batch norm, ReLU, dropout.

    (N, inputs, H, W) -> (N, outputs, H, W), or half of H and W with ``pool``. The convolution has no bias: the batch
    norm after it has one. Pooling before the batch norm leaves it and the ReLU a quarter of the work.
    """
    return [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), *([nn.MaxPool2d(2)] if pool else []),
            nn.BatchNorm2d(outputs), nn.ReLU(), nn.Dropout(dropout)]


def relu_norm(inputs: int, outputs: int, dropout: float = 0.0, **settings: Any) -> list[nn.Module]:
    """3x3 convolution, ReLU, batch norm, and dropout if any: in this order, as the CIFAR-10 depthwise nets have it.

    ``settings`` of the convolution: stride, padding, dilation, groups. Unpadded, a side loses 2 * dilation pixels.
    """
    return [conv3x3(inputs, outputs, **settings), nn.ReLU(), nn.BatchNorm2d(outputs),
            *([nn.Dropout(dropout)] if dropout else [])]


def conv3x3(inputs: int, outputs: int, **settings: Any) -> nn.Conv2d:
    """A 3x3 convolution without bias, by ``PairedConv2d`` where it is one."""
    kind = PairedConv2d if inputs == outputs == 2 * settings.get("groups", 1) else nn.Conv2d
    return kind(inputs, outputs, 3, bias=False, **settings)


class PairedConv2d(nn.Conv2d):
    """``nn.Conv2d`` of groups of two channels, without bias; trained on a CPU in a third of the time.

    oneDNN has no fast kernel for such narrow groups. Four of them become one of eight channels, whose other weights are
    0: the same sums.
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or x.device.type != "cpu" or self.groups % 4:
            return super().forward(x)
        narrow = self.weight.view(self.groups // 4, 4, 2, 1, 2, *self.kernel_size)  # group, of it the 4 pairs, ...
        wide = (narrow * torch.eye(4).view(4, 1, 4, 1, 1, 1)).reshape(self.out_channels, 8, *self.kernel_size)
        return F.conv2d(x, wide, None, self.stride, self.padding, self.dilation, self.groups // 4)


def separable(inputs: int, outputs: int, groups: int | None = None) -> list[nn.Module]:
    """Depthwise separable convolution (Chollet 2016, arXiv:1610.02357): 3x3 in each channel, then 1x1 across them.

    (N, inputs, H, W) -> (N, outputs, H, W), nearly depthwise with ``groups`` < ``inputs``. The 1x1 has no activation.
    """
    depthwise = relu_norm(inputs, inputs, padding=1, groups=groups or inputs)
    return [*depthwise, nn.Conv2d(inputs, outputs, 1, bias=False)]


def dilated_transition(channels: int) -> list[nn.Module]:
    """From (H, W) to (H - 6, W - 6) without pooling or stride: 3x3 with dilation 2 (covers 5x5), then plain 3x3."""
    return [*relu_norm(channels, channels, dilation=2), *relu_norm(channels, channels)]


class Residual(nn.Module):
    """``residual``, a path from ``inputs`` to ``outputs`` channels, added to its input, then ReLU.

    Where the shape changes, the input passes a 1x1 convolution and the normalization ``norm``.
    """

    def __init__(self, residual: nn.Module, inputs: int, outputs: int, stride: int,
                 norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__()
        self.residual = residual
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs else nn.Sequential(
            nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm(outputs))
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.residual(x) + self.shortcut(x))


class BasicBlock(Residual):
    """Two 3x3 convolutions (He et al. 2015): (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, norm: Norm = nn.BatchNorm2d) -> None:
        super().__init__(nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), norm(outputs), nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False), norm(outputs)), inputs, outputs, stride, norm)


class Bottleneck(Residual):
    """1x1 down to few channels, 3x3 of 8 groups with the stride, 1x1 up: ResNeXt's (Xie et al. 2016, arXiv:1611.05431).

    (N, inputs, H, W) -> (N, 4 * planes, H / stride, W / stride). A group has 4 channels for every 64 ``planes``.
    """

    def __init__(self, inputs: int, planes: int, stride: int = 1) -> None:
        narrow, outputs = planes // 2, 4 * planes
        super().__init__(nn.Sequential(
            nn.Conv2d(inputs, narrow, 1, bias=False), nn.BatchNorm2d(narrow), nn.ReLU(),
            nn.Conv2d(narrow, narrow, 3, stride, 1, groups=8, bias=False), nn.BatchNorm2d(narrow), nn.ReLU(),
            nn.Conv2d(narrow, outputs, 1, bias=False), nn.BatchNorm2d(outputs)), inputs, outputs, stride)
