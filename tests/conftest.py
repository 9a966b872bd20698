"""Settings and fixtures of all tests."""
import os

import pytest

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("COURSE_DEVICE", "cpu")  # the same tests on every machine; test_gpu.py is for a GPU

from course_utils.config import Experiment


@pytest.fixture
def tiny():
    """An experiment that trains in a second."""
    return Experiment(assignment="none", variant="tiny", about="for tests", dataset="cifar10", model="none", epochs=4,
                      batch_size=16, schedule="one_cycle", peak_epoch=1, lr=0.02, precision="fp32")
