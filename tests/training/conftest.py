"""Fixtures: trainings in processes that may be killed."""
import importlib
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from course_utils.utils import REPO


@pytest.fixture(scope="session")
def crash_worker():
    """``crash_worker(task, folder)`` starts a function of ``crash_worker.py`` in a process of its own.

    A server process imports torch once and forks: the function runs a few milliseconds later.
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

    def start(task, folder):
        folder.mkdir(parents=True, exist_ok=True)
        process = context.Process(target=module.run, args=(getattr(module, task), folder), daemon=True)
        process.start()
        return process

    return start


@pytest.fixture(scope="session")
def reference_run(crash_worker, tmp_path_factory):
    """``result.json`` of a training that nothing disturbed, and its seconds."""
    folder, start = tmp_path_factory.mktemp("reference"), time.perf_counter()
    process = crash_worker("train", folder)
    process.join(120)
    assert process.exitcode == 0, (folder / "log").read_text()
    return (folder / "result.json").read_text(), time.perf_counter() - start
