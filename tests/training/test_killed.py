"""Rows 1 to 3 and 20: runs that are killed, interrupted, or begun in other circumstances, come to the same."""
import os
import random
import shutil
import signal
import time

import psutil
import pytest
import torch
from faults.nursery import home_of, outcome
from faults.table import said

from course_utils.training import checkpoint

KILLS = [pytest.param(k, marks=pytest.mark.long) if k >= 4 else k for k in range(20)]


@pytest.mark.parametrize("number", KILLS)
def test_killed_in_the_middle_it_goes_on_to_the_same_bits(nursery, unharmed, tmp_path, number):
    """By SIGKILL at a random moment; every second one goes on with workers."""
    folder, ended, delay = tmp_path / "run", 0, random.Random(number).uniform(0, unharmed.seconds)
    while ended == 0 or list(folder.glob("*/record.json")):  # it was quicker than the one that was measured
        shutil.rmtree(folder, ignore_errors=True)
        process = nursery.begin(folder)
        time.sleep(delay)
        os.kill(process, signal.SIGKILL)
        ended, delay = nursery.end_of(process), 0.7 * delay
    assert ended == -signal.SIGKILL
    kept = checkpoint.list_checkpoints(home_of(folder)) if list(folder.glob("lenet-*")) else []
    assert nursery.whole(folder, workers=2 * (number % 2)) == 0, (folder / "log").read_text()
    assert outcome(folder) == unharmed.outcome
    assert not kept or said(1, (folder / "log").read_text())


def test_killed_while_a_checkpoint_is_written_the_one_before_loads(nursery, tmp_path):
    """At 100 random moments, until the first ten checkpoints are written; no partial file has a final name."""
    moments, written, begun = random.Random(0), 0, time.perf_counter()
    for epoch in range(10):
        checkpoint.save(tmp_path / "tried", epoch, {"model": torch.zeros(500_000)})
    ten = time.perf_counter() - begun  # seconds
    for number in range(100):
        folder = tmp_path / str(number)
        process = nursery.begin(folder, task="save")
        time.sleep(moments.uniform(0, 0.01 + ten))
        os.kill(process, signal.SIGKILL)
        assert nursery.end_of(process) == -signal.SIGKILL
        found = [checkpoint.restore(path) for path in checkpoint.list_checkpoints(folder)]  # each believed or refused
        written += bool(found)
        assert all((state["model"] == state["epoch"]).all() for state in found)
        assert {path.name[0] for path in folder.iterdir()} <= {"e", ".", "l"}  # epoch-*, .partial, log
        shutil.rmtree(folder)
    assert written > 20


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_interrupted_it_leaves_a_checkpoint_and_no_orphans(nursery, unharmed, tmp_path, number, code):
    process = nursery.begin(tmp_path, workers=2, harm="slow")
    workers = nursery.workers_of(process, epoch=2, folder=tmp_path)
    os.kill(process, number)
    assert nursery.end_of(process) == code
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert alive == [] and checkpoint.latest(home_of(tmp_path)) is not None
    assert nursery.whole(tmp_path) == 0
    assert outcome(tmp_path) == unharmed.outcome


def test_the_same_seed_gives_the_same_record_and_another_seed_another(nursery, unharmed, tmp_path):
    """On 0 (as the unharmed run), 2 and 4 workers, each time in a fresh process."""
    for workers in (2, 4):
        assert nursery.whole(tmp_path / str(workers), workers=workers) == 0
        assert outcome(tmp_path / str(workers)) == unharmed.outcome
    assert nursery.whole(tmp_path / "other", seed=1) == 0
    assert outcome(tmp_path / "other")["weights"] != unharmed.outcome["weights"]
