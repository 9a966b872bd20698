"""What several test files share."""
import contextlib
import dataclasses
import io
import os
import pickle
import struct

import numpy as np
import pytest
import torch
from torch import nn

from course_utils.data.datasets import open_dataset
from course_utils.data.info import DATASETS, data_root
from course_utils.data.loader import BatchLoader
from course_utils.evaluation.metrics import Prediction
from course_utils.reporting.record import environment_info, make_record
from course_utils.training.trainer import Training, fit
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
    if profile == "full":
        info = DATASETS["cifar10"]
        data = dataclasses.replace(data, is_synthetic=False, title="CIFAR-10", sha256=info.sha256, classes=info.classes)
    logits = np.eye(10, dtype=np.float32)[data.test_labels]
    logits[correct:] = np.roll(logits[correct:], 1, axis=1)
    prediction = Prediction(logits, data.test_labels)
    rows = [{"epoch": k, "lr": 0.1, "train_loss": 1.0, "train_accuracy": 0.5, "seconds": 60.0, "test_loss": 1.0,
             "test_accuracy": prediction.accuracy} for k in range(1, epochs + 1)]
    training = Training(rows, [{"from_epoch": 1, **environment_info()}])
    return make_record(exp, data, 0.01, 6_573_130, training, prediction, "fp32", torch.device("cpu"))


class _Python2Pickler(pickle._Pickler):
    """Writes bytes as Python 2 wrote its strings, as the published CIFAR-10 files hold them."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_bytes(self, data):
        self.write(pickle.BINSTRING + struct.pack("<i", len(data)) + data)
        self.memoize(data)

    dispatch[bytes] = save_bytes


def python2_pickle(table):
    buffer = io.BytesIO()
    _Python2Pickler(buffer, 2).dump(table)
    return buffer.getvalue().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")


def write_cifar10_batches(root, each=10):
    """``root/cifar-10-batches-py`` with ``each`` images per file, in the published form; returns images and labels."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 256, (6 * each, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(6 * each) % 10
    for k, name in enumerate([*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]):
        part = slice(each * k, each * k + each)
        rows = images[part].transpose(0, 3, 1, 2).reshape(each, 3072)  # channel by channel
        (folder / name).write_bytes(python2_pickle({b"data": rows, b"labels": labels[part].tolist()}))
    return images, labels


def change_dataset(monkeypatch, name, **changes):
    """For this test the data set ``name`` has other constants, and no mirrors unless ``archives`` are among them."""
    archives = tuple(dataclasses.replace(archive, mirrors=()) for archive in DATASETS[name].archives)
    monkeypatch.setitem(DATASETS, name, dataclasses.replace(DATASETS[name], **{"archives": archives} | changes))


def all_weights(model):
    """Everything that a checkpoint holds of ``model``, in one vector."""
    return torch.cat([tensor.detach().flatten() for tensor in model.state_dict().values()])


def fit_toy(exp, model=None, **settings):
    """Train the toy model on the toy images; returns ``all_weights`` and the result of ``fit``."""
    model = toy_model() if model is None else model
    train = toy_loader(exp.batch_size, shuffle=True, seed=exp.seed)
    training = fit(exp, model, train, toy_loader(), exp.lr, **{"log": lambda _: None} | settings)
    return all_weights(model), training


def interrupt_at(epoch):
    """A ``log`` that interrupts a training after ``epoch``, such as "3/4", before its checkpoint is written."""
    def log(line):
        if line.startswith(f"epoch   {epoch}"):
            raise KeyboardInterrupt

    return log
