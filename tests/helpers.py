"""What several test files share."""
import contextlib
import os

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.data.loader import BatchLoader
from course_utils.data.prepare import data_root

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


def real_root(name):
    """The folder of the real data sets; the test is skipped where ``name`` is not among them."""
    root = data_root()
    if not (root / name / "meta.json").is_file():
        pytest.skip(f"no real {name}: set COURSE_DATA, or run  python -m course_utils data {name}")
    return root


def toy_images(count=64, seed=0):
    """8x8 images of two classes, distinguished by the bright half: learned in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 2
    images = rng.integers(0, 120, (count, 8, 8, 3), dtype=np.uint8)
    images[labels == 1, :, 4:] += 100
    images[labels == 0, :, :4] += 100
    return images, labels


def toy_loader(batch_size=16, count=64, **settings):
    return BatchLoader(*toy_images(count), batch_size, MEAN, STD, **settings)


def toy_model(seed=0, dropout=0.1):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))


class Hostile:
    """Unpickled by code that executes what a pickle asks for, it creates ``harmed`` in the working folder."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def flip_a_byte(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@contextlib.contextmanager
def file_size_limit(size):
    """No file of this process can grow beyond ``size`` bytes: writing fails as on a full disk."""
    resource = pytest.importorskip("resource", reason="limits on files are a matter of Unix")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
