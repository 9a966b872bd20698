"""Rows 13 (data), 14, 17 and 19: disks that are full or read-only, preparations that are cut, two runs on one folder.

The disk is full by a limit on the size of files, which the system itself enforces: whatever writes fails as there.
"""
import os
import random
import shutil
import signal
import time

import numpy as np
import pytest
from helpers import cifar10_of, file_size_limit
from faults.nursery import home_of, outcome
from faults.table import said
from test_acquire import batches

from course_utils.data import prepare as acquire
from course_utils.errors import CourseError


def test_a_full_disk_at_the_data(tmp_path, monkeypatch):
    batches(tmp_path / "cifar-10-batches-py", np.random.default_rng(0))
    cifar10_of(monkeypatch)
    said_so = r"Could not write .*cifar10: File too large \(.* MB free"
    with file_size_limit(20_000), pytest.raises(CourseError, match=said_so):
        acquire.prepare("cifar10", tmp_path, log=lambda _: None)
    assert list((tmp_path / "cifar10").iterdir()) == []
    acquire.prepare("cifar10", tmp_path, log=lambda _: None)


def test_a_read_only_folder_is_said_before_training(nursery, tmp_path):
    """Also to root, who is not asked: its run is made as nobody."""
    log = tmp_path / "log"
    log.touch()
    log.chmod(0o666)
    tmp_path.chmod(0o555)
    try:
        assert nursery.whole(tmp_path, task="run_as_nobody") == 1
    finally:
        tmp_path.chmod(0o755)
    assert said(14, log.read_text()) and "epoch" not in log.read_text().replace("3epochs", "")


def test_a_preparation_killed_at_any_moment_is_made_anew(nursery, tmp_path, monkeypatch):
    """Ten random moments; what lies there half made is never taken for whole."""
    batches(tmp_path / "cifar-10-batches-py", np.random.default_rng(0), each=2_000)
    counts, moments, cut = {"train": 10_000, "test": 2_000}, random.Random(0), 0
    cifar10_of(monkeypatch, **counts)
    begun = time.perf_counter()
    assert nursery.whole(tmp_path, task="prepare", images=counts) == 0, (tmp_path / "log").read_text()
    seconds, (whole, _) = time.perf_counter() - begun, acquire.open_prepared("cifar10", tmp_path)
    for _ in range(10):
        shutil.rmtree(tmp_path / "cifar10")
        process = nursery.begin(tmp_path, task="prepare", images=counts)
        time.sleep(moments.uniform(0, seconds))
        os.kill(process, signal.SIGKILL)
        if nursery.end_of(process) == -signal.SIGKILL and not (tmp_path / "cifar10" / "meta.json").exists():
            cut += 1
            with pytest.raises(CourseError) as error:
                acquire.open_prepared("cifar10", tmp_path)
            assert said(17, str(error.value))
        assert nursery.whole(tmp_path, task="prepare", images=counts) == 0
        arrays, _ = acquire.open_prepared("cifar10", tmp_path)
        assert all(np.array_equal(arrays[key], whole[key]) for key in whole)
    assert cut > 2


def test_a_second_run_on_a_folder_is_told_and_a_dead_one_is_taken_over_from(nursery, unharmed, tmp_path):
    first = nursery.begin(tmp_path, harm="slow")
    until = time.monotonic() + 30
    while not list(tmp_path.glob("*/epoch-*")) and time.monotonic() < until:
        time.sleep(0.02)
    assert nursery.whole(tmp_path) == 1
    log = (tmp_path / "log").read_text()
    assert said(19, log) and f"Process {first} is at work" in log
    os.kill(first, signal.SIGKILL)
    nursery.end_of(first)
    assert (home_of(tmp_path) / ".lock").exists()
    assert nursery.whole(tmp_path) == 0
    assert outcome(tmp_path) == unharmed.outcome
