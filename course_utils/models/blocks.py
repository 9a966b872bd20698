"""Blocks that the networks of the course share."""
from __future__ import annotations

from torch import nn


def conv_block(inputs: int, outputs: int, pool: bool = False, dropout: float = 0.0) -> list[nn.Module]:
    """3x3 convolution, optional 2x2 max pooling, batch norm, ReLU, dropout.

    (N, inputs, H, W) -> (N, outputs, H, W), or half of H and W with ``pool``. The convolution has no bias: the batch
    norm behind it has one. Pooling comes before the batch norm and leaves it and
    the ReLU a quarter of the work.
    """
    layers: list[nn.Module] = [nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)]
    if pool:
        layers.append(nn.MaxPool2d(2))
    return [*layers, nn.BatchNorm2d(outputs), nn.ReLU(), nn.Dropout(dropout)]
