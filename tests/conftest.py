"""What several test files share."""
from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # the same tests on every machine; test_gpu.py is for a GPU

from course_utils.data import prepare as acquire
from course_utils.training import device as hardware
from course_utils.data.prepare import data_root
from course_utils.config import Experiment
from course_utils.utils import REPO
from course_utils.data.loader import Batches

MEAN, STD = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)


@pytest.fixture(scope="session")
def repo() -> Path:
    return REPO


def real_root(name: str) -> Path:
    """The folder of the real data sets; the test is skipped where ``name`` is not among them."""
    root = data_root()
    if not (root / name / "meta.json").is_file():
        pytest.skip(f"no real {name}: set COURSE_DATA, or run  python -m course_utils data {name}")
    return root


@pytest.fixture
def tiny() -> Experiment:
    """An experiment that trains in a second."""
    return Experiment(assignment="none", variant="tiny", about="for tests", dataset="cifar10", model="none", epochs=4,
                      batch_size=16, schedule="one_cycle", peak_epoch=1, lr=0.02, precision="fp32")


@pytest.fixture
def machine() -> hardware.Machine:
    return hardware.choose_machine("fp32")


def toy_images(count: int = 64, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """8x8 images of two classes, told apart by the bright half: learnt in a few steps."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count, dtype=np.int64) % 2
    images = rng.integers(0, 120, (count, 8, 8, 3), dtype=np.uint8)
    images[labels == 1, :, 4:] += 100
    images[labels == 0, :, :4] += 100
    return images, labels


def toy_batches(batch_size: int = 16, count: int = 64, **settings) -> Batches:
    return Batches(*toy_images(count), batch_size, MEAN, STD, **settings)


def toy_model(seed: int = 0, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(dropout),
                         nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))


class Hostile:
    """Unpickled by whoever executes what a pickle asks for, it leaves ``harmed`` in the working folder."""

    def __reduce__(self) -> tuple:
        return os.system, ("touch harmed",)


def flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cifar10_of(monkeypatch: pytest.MonkeyPatch, train: int = 50, test: int = 10) -> None:
    """CIFAR-10's source asks for so many images, and has no mirrors."""
    source = acquire.SOURCES["cifar10"]
    offline = tuple(dataclasses.replace(archive, mirrors=()) for archive in source.archives)
    monkeypatch.setitem(acquire.SOURCES, "cifar10",
                        dataclasses.replace(source, counts={"train": train, "test": test}, archives=offline))


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file of this process can grow beyond ``size`` bytes: what it writes fails as on a full disk."""
    resource = pytest.importorskip("resource", reason="limits on files are a matter of Unix")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture(scope="session")
def nursery() -> Iterator[Any]:
    """Small trainings in processes that may be killed (see ``faults/nursery.py``)."""
    from faults.keeper import Nursery

    if not hasattr(os, "fork"):
        pytest.skip("needs fork and signals")
    raised = Nursery()
    assert raised.ask(ready=True) == 0
    yield raised
    raised.process.stdin.close()
    raised.process.wait(30)


class Unharmed(NamedTuple):
    """A run that nobody disturbed."""

    outcome: dict[str, Any]
    seconds: float
    folder: Path


@pytest.fixture(scope="session")
def unharmed(nursery: Any, tmp_path_factory: pytest.TempPathFactory) -> Unharmed:
    from faults.nursery import outcome

    folder, begun = tmp_path_factory.mktemp("unharmed"), time.perf_counter()
    assert nursery.whole(folder) == 0, (folder / "log").read_text()
    return Unharmed(outcome(folder), time.perf_counter() - begun, folder)


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository of one notebook with many fates (see ``ill_fated.py``)."""
    import ill_fated

    from course_utils.runner import batch, execute as headless

    ill_fated.make(tmp_path)
    for module in (batch, headless):
        monkeypatch.setattr(module, "REPO", tmp_path)
    return tmp_path
