"""A full disk and a killed process while preparing: incomplete data is never taken for complete.

The disk is full by a limit on file sizes, which the operating system enforces.
"""
import random
import shutil
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers import change_dataset, file_size_limit, write_cifar10_batches

from course_utils.data.prepare import open_prepared, prepare
from course_utils.errors import CourseError
from course_utils.utils import REPO

PREPARE = """
import sys
import pytest
from helpers import change_dataset
from course_utils.data.prepare import prepare
change_dataset(pytest.MonkeyPatch(), "cifar10", counts={"train": 10_000, "test": 2_000})
print("ready", flush=True)
prepare("cifar10", sys.argv[1], log=lambda _: None)
"""


def test_a_full_disk_leaves_no_partial_files(tmp_path, monkeypatch):
    write_cifar10_batches(tmp_path)
    change_dataset(monkeypatch, "cifar10", counts={"train": 50, "test": 10})
    message = r"Could not write .*cifar10: File too large \(.* MB free\)\. No partial files"
    with file_size_limit(20_000), pytest.raises(CourseError, match=message):
        prepare("cifar10", tmp_path, log=lambda _: None)
    assert list((tmp_path / "cifar10").iterdir()) == []
    prepare("cifar10", tmp_path, log=lambda _: None)
    open_prepared("cifar10", tmp_path)


def start_preparing(root):
    process = subprocess.Popen([sys.executable, "-c", PREPARE, str(root)], cwd=REPO / "tests", stdout=subprocess.PIPE,
                               env={"PYTHONPATH": f"{REPO}:{REPO / 'tests'}"})
    process.stdout.readline()  # imports are done
    return process


@pytest.mark.slow
def test_a_killed_preparation_is_repeated_completely(tmp_path, monkeypatch):
    """Killed at six random moments."""
    write_cifar10_batches(tmp_path, each=2_000)
    change_dataset(monkeypatch, "cifar10", counts={"train": 10_000, "test": 2_000})
    start = time.perf_counter()
    prepare("cifar10", tmp_path, log=lambda _: None)
    seconds, (expected, _) = time.perf_counter() - start, open_prepared("cifar10", tmp_path)
    expected, moments, interrupted = {key: np.array(a) for key, a in expected.items()}, random.Random(0), 0
    for _ in range(6):
        shutil.rmtree(tmp_path / "cifar10", ignore_errors=True)
        with start_preparing(tmp_path) as process:
            time.sleep(moments.uniform(0, seconds))
            process.kill()
        if not (tmp_path / "cifar10" / "meta.json").exists():
            interrupted += 1
            with pytest.raises(CourseError, match="No prepared cifar10"):
                open_prepared("cifar10", tmp_path)
        prepare("cifar10", tmp_path, log=lambda _: None)
        arrays, _ = open_prepared("cifar10", tmp_path)
        assert all(np.array_equal(arrays[key], expected[key]) for key in expected)
    assert interrupted > 1
