"""Where each data set comes from, and how its published form is read into arrays."""
from __future__ import annotations

from collections.abc import Mapping

from course_utils.data.sources.base import Source
from course_utils.data.sources.cifar10 import CIFAR10
from course_utils.data.sources.gtsrb import GTSRB
from course_utils.data.sources.stl10 import STL10

SOURCES: Mapping[str, Source] = {"cifar10": CIFAR10, "gtsrb": GTSRB, "stl10": STL10}
