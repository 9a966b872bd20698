"""The networks by name, and how one is built."""
from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from course_utils.models import custom as own
from course_utils.errors import unknown
from course_utils.models.cifar10 import S7, CustomResNet, DilatedNet, Net, ResNet18, S7Mixed
from course_utils.models.gtsrb import VGG16, LeNet, ResNet34, SignNet, lenet_stn, resnet34_stn, vgg16_stn
from course_utils.models.stl10 import CustomNet, CustomNet256, GroupedResNet, LeNetWide, ResidualNet

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "custom_resnet": CustomResNet, "s7": S7, "s7_mixed": S7Mixed, "net": Net, "resnet18": ResNet18,
    "dilated_net": DilatedNet,
    "lenet": LeNet, "vgg16": VGG16, "resnet34": ResNet34,
    "lenet_stn": lenet_stn, "vgg16_stn": vgg16_stn, "resnet34_stn": resnet34_stn,
    "sign_net": SignNet,
    "lenet_wide": LeNetWide, "custom_net": CustomNet, "custom_net_256": CustomNet256, "grouped_resnet": GroupedResNet,
    "residual_net": ResidualNet,
}


def build_model(name: str, classes: int, side: int = 32, **settings: Any) -> nn.Module:
    """The network ``name`` for ``classes`` classes; ``settings`` are its own keyword arguments.

    ``FILE.py:NAME`` is a network of your own, tried on images of ``side`` x ``side`` pixels (see ``own.build``).
    Raises ``CourseError`` for an unknown name or setting, with the legal ones.
    """
    if own.is_own(name):
        return own.build(name, classes, side, **settings)
    if name not in MODELS:
        raise unknown("model", name, MODELS)
    legal = [p for p in inspect.signature(MODELS[name]).parameters if p != "classes"]
    for setting in settings:
        if setting not in legal:
            raise unknown(f"setting of {name}", setting, legal)
    return MODELS[name](classes=classes, **settings)
