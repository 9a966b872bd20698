"""Rows 4 to 13: checkpoints damaged or hostile, losses, memory, workers and disks that fail."""
import hashlib
import os
import pickle
import shutil
import signal
import time

import numpy as np
import psutil
import pytest
import torch
from helpers import Hostile, flip_a_byte
from faults.nursery import home_of, outcome
from faults.table import said

from course_utils.training import checkpoint
from course_utils.data.loader import BatchLoader


@pytest.fixture
def copied(unharmed, tmp_path):
    """A finished run's folder without its record: checkpoints of epochs 2 and 3."""
    folder = tmp_path / "run"
    shutil.copytree(unharmed.folder, folder)
    (folder / "log").unlink()
    (home_of(folder) / "record.json").unlink()
    return folder


def rename(path):
    """Give a checkpoint that was changed the name that its bytes ask for, as somebody who means ill would."""
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:checkpoint.DIGITS]
    path.rename(path.with_name(f"{path.stem.rpartition('-')[0]}-{digest}.pt"))


def truncate(path):
    os.truncate(path, path.stat().st_size // 2)


def make_hostile(path):
    torch.save({"model": Hostile()}, path)
    rename(path)


def make_a_bare_pickle(path):
    path.write_bytes(pickle.dumps(Hostile()))
    rename(path)


@pytest.mark.parametrize(("harm", "row"), [(truncate, 4), (flip_a_byte, 5), (make_hostile, 6), (make_a_bare_pickle, 6)])
def test_from_a_bad_newest_checkpoint_it_falls_back_to_the_one_before(nursery, unharmed, copied, harm, row):
    harm(checkpoint.list_checkpoints(home_of(copied))[-1])
    assert nursery.whole(copied) == 0
    log = (copied / "log").read_text()
    assert said(row, log) and "Resumed after epoch 2 of 3" in log
    assert outcome(copied) == unharmed.outcome
    assert not list(copied.rglob("harmed")) and not os.path.exists("harmed")


def test_when_all_are_bad_it_begins_anew_and_keeps_what_it_writes(nursery, unharmed, copied):
    """A bad one of a later epoch must not push a whole one of an earlier epoch out."""
    for path in checkpoint.list_checkpoints(home_of(copied)):
        truncate(path)
    assert nursery.whole(copied, harm="disk") == 1  # after epoch 1 nothing can be written
    kept, = checkpoint.list_checkpoints(home_of(copied))
    assert len(checkpoint.restore(kept)["history"]) == 1
    assert nursery.whole(copied) == 0
    assert outcome(copied) == unharmed.outcome


def test_the_checkpoint_of_another_experiment_is_refused_with_the_differences(nursery, copied):
    before = checkpoint.list_checkpoints(home_of(copied))
    assert nursery.whole(copied, lr=0.01) == 1
    log = (copied / "log").read_text()
    assert said(7, log) and "lr: 0.002 there, 0.01 asked for" in log
    assert checkpoint.list_checkpoints(home_of(copied)) == before


def test_a_checkpoint_of_something_else_is_refused(nursery, copied):
    for path in checkpoint.list_checkpoints(home_of(copied)):
        path.unlink()
    checkpoint.save(home_of(copied), 1, {"model": {}, "epoch": 1})
    assert nursery.whole(copied) == 1
    assert "of something else than a training: it lacks best, experiment" in (copied / "log").read_text()


@pytest.mark.parametrize(("harm", "row"), [("nan", 8), ("far", 9), ("memory", 10), ("disk", 13)])
def test_what_ends_a_training_is_said_and_the_epoch_before_is_whole(nursery, unharmed, tmp_path, harm, row):
    assert nursery.whole(tmp_path, harm=harm) == 1
    assert said(row, (tmp_path / "log").read_text())
    kept, = checkpoint.list_checkpoints(home_of(tmp_path))
    assert len(checkpoint.restore(kept)["history"]) == 1
    assert nursery.whole(tmp_path) == 0
    assert outcome(tmp_path) == unharmed.outcome


def test_a_disk_too_full_for_the_record(nursery, unharmed, copied):
    before = sorted(path.name for path in home_of(copied).iterdir())
    assert nursery.whole(copied, task="run_on_full_disk") == 1
    log = (copied / "log").read_text()
    assert "Could not write" in log and "record.json: File too large (" in log and "MB free)" in log
    assert sorted(path.name for path in home_of(copied).iterdir() if path.name != ".lock") == before
    assert nursery.whole(copied) == 0
    assert outcome(copied) == unharmed.outcome


@pytest.mark.parametrize(("number", "row", "seconds"), [(signal.SIGKILL, 11, 15), (signal.SIGSTOP, 12, 20)])
def test_a_worker_that_dies_or_hangs_ends_the_training_soon(nursery, unharmed, tmp_path, number, row, seconds):
    """A time limit of two seconds stands for that of two minutes; torch waits five for a deaf worker to go."""
    process = nursery.begin(tmp_path, workers=2, harm="slow", patience=2)
    workers = nursery.workers_of(process, epoch=2, folder=tmp_path)
    begun = time.monotonic()
    workers[0].send_signal(number)
    assert nursery.end_of(process) == 1
    assert time.monotonic() - begun < seconds
    assert said(row, (tmp_path / "log").read_text())
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert alive == []
    assert nursery.whole(tmp_path, workers=2) == 0
    assert outcome(tmp_path) == unharmed.outcome


def test_augmentation_differs_between_epochs_and_between_workers():
    """Of images that are all the same, nothing but their augmentation can be told apart."""
    from course_utils.config import Transform

    images, labels = np.full((64, 16, 16, 3), 200, np.uint8), np.arange(64) % 2
    images[:, 3:9, 2:12] = 30
    batches = BatchLoader(images, labels, 16, (0.5,) * 3, (0.25,) * 3, engine="albumentations", workers=2,
                      augmentation=(Transform("shift_scale_rotate", 1.0, {"shift": 0.1, "scale": 0.1, "rotate": 45}),))
    epochs = [[x.clone() for x, _ in batches.epoch(epoch)] for epoch in (1, 2)]
    assert not any(torch.equal(a, b) for a, b in zip(*epochs))  # between epochs
    first, second, third, _ = epochs[0]
    assert not torch.equal(first, second)  # of worker 0 and of worker 1
    assert not torch.equal(first, third)  # both of worker 0
    assert len(torch.unique(torch.cat(epochs[0] + epochs[1]).flatten(1), dim=0)) == 128
