"""Batches with failures: real kernels that are killed, hang, or find no room on the disk."""
import contextlib
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from helpers import file_size_limit

from course_utils.errors import CourseError
from course_utils.runner import batch
from course_utils.runner.execute import RUN_FOLDER
from course_utils.runner.status import BATCH_LOCK, read_status, status_rows
from course_utils.utils import REPO

pytestmark = pytest.mark.slow

SCRIPT = """import signal, sys
from pathlib import Path
from course_utils.__main__ import main
from course_utils.runner import batch, execute
signal.signal(signal.SIGINT, signal.default_int_handler)  # the background jobs of a shell ignore it
batch.REPO = execute.REPO = Path(sys.argv[1])
sys.exit(main(["run", "cifar10_custom_resnet", "--seeds", "9,8", "--set", "epochs=3", "--output", sys.argv[2]]))
"""


def states(jobs, **settings):
    return [found.state for found in batch.Batch(jobs, [{}], **settings).run()]


def test_failures_are_classified_and_stop_no_other_run(course):
    """Then the same batch runs only what is not done."""
    seeds = (0, 1, 2, 3, 4, 5, 6, 7)
    jobs, seen = course.plan(*seeds), set()
    found = batch.Batch(jobs, [{}, {}], limit=8).run(
        lambda: seen.update(row[2] for row in status_rows([job.folder for job in jobs])))
    ends = ["done", "failed", "killed", "timeout", "diverged", "out of memory", "failed", "done"]
    assert [run.state for run in found] == ends
    assert found[1].message == "ValueError: invalid:\nsee below"
    assert "the kernel was killed: out of memory?" in found[2].message and "timed out" in found[3].message
    assert found[4].message == "DivergenceError: The loss is NaN or infinite: epoch 2."
    assert found[5].message == "MemoryError: too much"
    assert found[0].accuracy == pytest.approx(0.7) and found[6].accuracy is None
    assert {"waiting", "running", "done", "killed"} <= seen
    executed = [(job.folder / f"{job.notebook}.ipynb").read_text() for job in jobs[:2]]
    assert not any(str(course.folder) in text for text in executed) and "see below" in executed[1]

    (course.folder / "repaired").touch()
    jobs = course.plan(*seeds)
    assert [job.is_done() for job in jobs] == [state == "done" for state in ends]
    started_at = read_status(jobs[0].folder).started_at
    assert set(states([job for job in jobs if not job.is_done()])) == {"done"}
    assert all(job.is_done() for job in jobs) and read_status(jobs[0].folder).started_at == started_at


def test_notebook_that_cannot_be_saved_stops_no_other_run(course):
    jobs = course.plan(7, 8)
    (jobs[0].folder / f"{jobs[0].notebook}.ipynb").mkdir()
    found = batch.Batch(jobs, [{}]).run()
    assert [run.state for run in found] == ["failed", "done"]
    assert re.fullmatch(r"OSError: .*: Is a directory \(.* MB free\)", found[0].message)


def test_disk_too_full_for_the_notebook(course):
    jobs = course.plan(10, 0)
    with file_size_limit(50_000):
        found = batch.Batch(jobs, [{}]).run()
    assert [run.state for run in found] == ["failed", "done"]
    assert "File too large" in found[0].message
    assert not list(jobs[0].folder.glob("*.ipynb")) and not list(course.folder.rglob("*partial*"))
    assert states(course.plan(10)) == ["done"]


def left_behind(folder):
    return [process for process in psutil.process_iter() if process.name() == "sleep"
            and process.status() != psutil.STATUS_ZOMBIE and process.environ().get(RUN_FOLDER) == str(folder)]


def test_no_process_that_a_network_started_outlives_its_run(course):
    job, = course.plan(11)
    earlier = subprocess.Popen(["sleep", "600"], env={**os.environ, RUN_FOLDER: str(job.folder)})  # of a killed batch
    assert left_behind(job.folder)
    assert states([job]) == ["done"]
    assert earlier.wait(10) == -signal.SIGKILL and left_behind(job.folder) == []


def test_batch_that_lost_its_folder_leaves_the_status_to_the_new_owner(course):
    job, = course.plan(1)  # this one fails
    lock = job.folder / BATCH_LOCK
    (job.folder / "new").write_text(lock.read_text().replace("token=", "token=f"))
    (job.folder / "new").replace(lock)
    job.folder.joinpath("status.json").write_text("{}")
    assert states([job]) == ["failed"] and job.folder.joinpath("status.json").read_text() == "{}"


@contextlib.contextmanager
def running_batch(course):
    """The command ``run`` on two notebooks as a process, while the first is running and ignores signals.

    In the end none of its children may be alive.
    """
    environment = {**os.environ, "PYTHONPATH": str(REPO)}
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(course.folder), str(course.outputs)], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True, env=environment)
    deadline = time.monotonic() + 120
    while not (course.folder / "started").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    children = psutil.Process(process.pid).children(recursive=True)
    assert len(children) >= 2, process.communicate(timeout=60)  # papermill and the kernel
    try:
        yield process
        _, alive = psutil.wait_procs(children, timeout=10)
        assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    finally:
        for child in (*children, process):
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()


def seeds_9_and_8(course):
    return [path for seed in (9, 8) for path in course.outputs.glob(f"*/*seed{seed}-*")]


@pytest.mark.parametrize(("numbers", "send"), [
    ([signal.SIGINT], os.kill), ([signal.SIGINT] * 2, os.kill),
    ([signal.SIGHUP], os.killpg),  # a closed terminal: the whole group gets it
])
def test_interrupted_batch_kills_its_children_and_can_continue(course, numbers, send):
    with running_batch(course) as process:
        with pytest.raises(CourseError, match=f"Process {process.pid} on .* is using .*seed8"):
            course.plan(8, 9)  # a second batch is refused
        for number in numbers:
            send(process.pid, number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    if len(numbers) == 1:
        assert "Stopped. The same command continues" in errors
        assert {read_status(folder).state for folder in seeds_9_and_8(course)} == {"waiting"}
    if numbers == [signal.SIGINT]:
        (course.folder / "repaired").touch()
        assert states(course.plan(9, 8)) == ["done", "done"]


def test_killed_papermill_takes_its_kernel_along_and_the_next_run_starts(course):
    with running_batch(course) as process:
        papermill, = (child for child in psutil.Process(process.pid).children() if "papermill" in str(child.cmdline()))
        papermill.kill()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1 and "seed9" in errors and "killed: papermill was killed by signal 9" in errors
    assert [read_status(folder).state for folder in seeds_9_and_8(course)] == ["killed", "done"]


def test_killed_batch_reads_as_killed_and_its_folders_are_free(course):
    with running_batch(course) as process:
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        process.wait()
        assert [read_status(folder).state for folder in seeds_9_and_8(course)] == ["killed", "waiting"]
        _, alive = psutil.wait_procs(children, timeout=20)  # notebooks do not train on without their batch
        assert not alive or sys.platform != "linux"
    assert len(course.plan(9, 8)) == 2
