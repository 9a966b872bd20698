"""What several test files share."""
import contextlib
import dataclasses
import os

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.data.datasets import open_dataset
from course_utils.data.loader import BatchLoader
from course_utils.data.prepare import data_root
from course_utils.evaluation.metrics import Prediction
from course_utils.reporting.record import environment_info, make_record
from course_utils.training.trainer import Training
from course_utils.variants import load_experiment

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


def finished_record(seed=0, epochs=3, correct=70, profile="full"):
    """A record as a run of cifar10_custom_resnet with 100 test images leaves it, ``correct`` of them right."""
    exp = load_experiment("cifar10_custom_resnet", profile=profile, seed=seed, epochs=epochs)
    data = open_dataset("cifar10", data="synthetic", train_images=20, test_images=100)
    data = dataclasses.replace(data, is_synthetic=profile == "smoke")
    logits = np.eye(10, dtype=np.float32)[data.test_labels]
    logits[correct:] = np.roll(logits[correct:], 1, axis=1)
    prediction = Prediction(logits, data.test_labels)
    rows = [{"epoch": k, "lr": 0.1, "train_loss": 1.0, "train_accuracy": 0.5, "seconds": 60.0, "test_loss": 1.0,
             "test_accuracy": prediction.accuracy} for k in range(1, epochs + 1)]
    training = Training(rows, [{"from_epoch": 1, **environment_info()}])
    return make_record(exp, data, 0.01, 6_573_130, training, prediction, "fp32", torch.device("cpu"))
