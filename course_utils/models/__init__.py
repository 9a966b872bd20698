"""The networks by name, and building one."""
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from course_utils.config import is_custom
from course_utils.errors import check_names
from course_utils.models import custom
from course_utils.models.cifar10 import S7, CustomResNet, Net, ResNet18, S7Mixed
from course_utils.models.gtsrb import VGG16, LeNet, ResNet34, lenet_stn, resnet34_stn, vgg16_stn
from course_utils.models.stl10 import CustomNet, CustomNet256, GroupedResNet, LeNetWide

MODELS: Mapping[str, Callable[..., nn.Module]] = {
    "custom_resnet": CustomResNet, "s7": S7, "s7_mixed": S7Mixed, "net": Net, "resnet18": ResNet18,
    "lenet": LeNet, "vgg16": VGG16, "resnet34": ResNet34,
    "lenet_stn": lenet_stn, "vgg16_stn": vgg16_stn, "resnet34_stn": resnet34_stn,
    "lenet_wide": LeNetWide, "custom_net": CustomNet, "custom_net_256": CustomNet256, "grouped_resnet": GroupedResNet,
}


def build_model(name: str, num_classes: int, image_size: int = 32, **settings: Any) -> nn.Module:
    """The network ``name`` for ``num_classes`` classes; ``settings`` are its own keyword arguments.

    ``FILE.py:CLASS`` is a custom network, tried on images of ``image_size`` x ``image_size`` pixels (``custom.build``).
    Raises ``CourseError`` for an unknown name or setting, with the legal ones.
    """
    if is_custom(name):
        return custom.build(name, num_classes, image_size, **settings)
    check_names("model", [name], MODELS)
    check_names(f"setting of {name}", settings, inspect.signature(MODELS[name]).parameters.keys() - {"num_classes"})
    return MODELS[name](num_classes=num_classes, **settings)
