"""Fixtures of the training tests: a quick training, and trainings in processes that may be killed."""
import importlib
import multiprocessing
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from helpers import toy_loader, toy_model

from course_utils.training.trainer import fit
from course_utils.utils import REPO


@pytest.fixture
def fit_toy():
    """``fit_toy(exp, model, **settings)`` trains a toy model and returns all its weights in one vector, and the result
    of ``fit``.
    """
    def run(exp, model=None, **settings):
        model = toy_model() if model is None else model
        train = toy_loader(exp.batch_size, shuffle=True, seed=exp.seed)
        training = fit(exp, model, train, toy_loader(), exp.lr, **{"log": lambda _: None} | settings)
        return torch.cat([tensor.detach().flatten() for tensor in model.state_dict().values()]), training

    return run


@pytest.fixture(scope="session")
def crash_worker():
    """``crash_worker(task, folder, **settings)`` starts a task of ``crash_worker.py`` in a process of its own.

    A server process imports torch once and forks: a task is at work a few milliseconds after its start.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        pytest.skip("needs fork and signals")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["pytest", "crash_worker"])
    with pytest.MonkeyPatch.context() as patch:  # what the server process inherits
        patch.syspath_prepend(Path(__file__).parent)
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), str(REPO)]))
        patch.setenv("OMP_NUM_THREADS", "1")
        module = importlib.import_module("crash_worker")
        context.Process(target=int).start()  # the first process starts the server

    def start(task: str, folder: Path, **settings: Any):
        folder.mkdir(parents=True, exist_ok=True)
        process = context.Process(target=module.run, args=(task, folder), kwargs=settings, daemon=True)
        process.start()
        return process

    return start


class ReferenceRun(NamedTuple):
    """A training that nothing disturbed."""

    result: str
    seconds: float


@pytest.fixture(scope="session")
def reference_run(crash_worker, tmp_path_factory):
    folder, start = tmp_path_factory.mktemp("reference"), time.perf_counter()
    process = crash_worker("train", folder)
    process.join(120)
    assert process.exitcode == 0, (folder / "log").read_text()
    return ReferenceRun((folder / "result.json").read_text(), time.perf_counter() - start)
