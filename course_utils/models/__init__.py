"""The networks by name, and how one is built."""
from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from course_utils.models.cifar10 import CustomResNet

MODELS: Mapping[str, type[nn.Module]] = {"custom_resnet": CustomResNet}


def build_model(name: str, classes: int, **settings: Any) -> nn.Module:
    """The network ``name`` for ``classes`` classes; ``settings`` are its own keyword arguments.

    Raises ``ValueError`` for an unknown name or setting, with the legal ones.
    """
    if name not in MODELS:
        raise ValueError(f"Unknown model: {name!r}. Legal: {', '.join(sorted(MODELS))}.")
    legal = [p for p in inspect.signature(MODELS[name]).parameters if p != "classes"]
    for setting in settings:
        if setting not in legal:
            raise ValueError(f"Unknown setting of {name}: {setting!r}. Legal: {', '.join(legal) or 'none'}.")
    return MODELS[name](classes=classes, **settings)
