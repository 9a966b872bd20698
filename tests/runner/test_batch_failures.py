"""Rows 8, 10, 13, 18 and 19, where a batch of notebooks sees them: real kernels, killed, hung, and out of room."""
import contextlib
import importlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from helpers import file_size_limit
from faults.table import said
from ill_fated import planned
from test_record import NAME, finished

from course_utils.reporting import record
from course_utils.runner import batch, processes, status, warm
from course_utils.errors import CourseError
from course_utils.variants import load_experiment


def executed(job):
    return job.folder / f"{job.notebook}.ipynb"


def test_eight_runs_four_of_them_ill_fated(course):
    """One raises, one's kernel is killed, one hangs, one diverges: eight right states; then only these run again."""
    jobs = planned(course, 0, 1, 2, 3, 4, 6, 7, 8)
    lines = []
    found = batch.Batch(jobs, [{}, {}], limit=8).run(lambda: lines.append(status.rows([job.folder for job in jobs])))
    assert [one.state for one in found] == ["done", "failed", "died", "hung", "diverged", "failed", "done", "done"]
    assert found[1].message == "ValueError: too bad:\nsee below"
    assert "died" in found[2].message.lower() and "timed out" in found[3].message
    assert found[4].message == "DivergenceError: The loss is no longer a number in epoch 2."
    assert found[0].accuracy == pytest.approx(0.7) and found[5].accuracy is None
    states = {row[2] for rows in lines for row in rows}
    assert {"waiting", "running", "done", "died"} <= states
    for job in (jobs[0], jobs[1]):
        text = executed(job).read_text()
        assert str(course) not in text and executed(job).with_suffix(".html").exists()
    assert "too bad" in executed(jobs[1]).read_text() and said(18, found[2].message)

    (course / "mended").touch()
    again = planned(course, 0, 1, 2, 3, 4, 6, 7, 8)
    assert [job.done() for job in again] == [state == "done" for state in (one.state for one in found)]
    begun = jobs[0].status().begun
    assert {one.state for one in batch.Batch([job for job in again if not job.done()], [{}, {}]).run()} == {"done"}
    assert all(job.done() for job in again) and jobs[0].status().begun == begun
    again[0].reset()
    assert not again[0].done() and again[0].status().state == "waiting"


def test_memory_that_is_not_there_has_its_own_state(course):
    found, = batch.Batch(planned(course, 5), [{}]).run()
    assert (found.state, found.message) == ("out of memory", "MemoryError: not that much")


def test_a_disk_too_full_for_the_notebook(course):
    """Neither does half of it stay, nor does another run care."""
    jobs = planned(course, 10, 0)
    batch.Batch(jobs[1:], [{}]).run()  # the server of all later ones must not have the limit
    with file_size_limit(50_000):
        found = batch.Batch(jobs, [{}]).run()
    assert [one.state for one in found] == ["failed", "done"]
    assert re.search(r"File too large.*03_cifar10_custom_resnet.ipynb.* MB free", found[0].message)
    assert not list(jobs[0].folder.glob("*.ipynb")) and not list(course.rglob("*partial*"))
    assert {one.state for one in batch.Batch(planned(course, 10), [{}]).run()} == {"done"}


SCRIPT = """
import os, signal, sys
from pathlib import Path
from course_utils.runner import batch, estimate, execute as headless
from course_utils.__main__ import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
batch.REPO = headless.REPO = Path(sys.argv[1])
estimate.estimates = lambda experiments, _: [estimate.Estimate(1.0, "a guess") for _ in experiments]
sys.exit(main(["run", "cifar10_custom_resnet", "--seeds", "9,8", "--set", "epochs=3", "--output", sys.argv[2]]))
"""


@contextlib.contextmanager
def at_work(course):
    """``run`` of two notebooks, as a process, while the kernel of the first, deaf to signals, is at work; what it
    began is gone in the end.
    """
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(course), str(course / "out put")], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    until = time.monotonic() + 120
    while not (course / "deaf").exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    began = psutil.Process(process.pid).children(recursive=True)
    assert len(began) >= 4, process.communicate(timeout=60)  # the server, its tracker, papermill, and the kernel
    yield process
    _, alive = psutil.wait_procs(began, timeout=10)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize(("numbers", "whom"), [
    ([signal.SIGINT], os.kill), ([signal.SIGTERM], os.kill), ([signal.SIGINT] * 2, os.kill),
    pytest.param([signal.SIGHUP], os.killpg, marks=pytest.mark.long),
])
def test_an_interrupted_batch_ends_its_children_and_can_go_on(course, numbers, whom):
    """By Ctrl-C, also twice, by SIGTERM, and by a terminal that is closed: that reaches the whole group."""
    with at_work(course) as process:
        for number in numbers:
            whom(process.pid, number)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(numbers) > 1 or said(3, told)
    jobs = planned(course, 9, 8)
    assert len(numbers) > 1 or {job.status().state for job in jobs} == {"waiting"}
    if whom is os.kill and numbers == [signal.SIGINT]:
        (course / "mended").touch()
        assert {one.state for one in batch.Batch(jobs, [{}]).run()} == {"done"}


def test_a_kernel_does_not_outlive_its_papermill(course):
    """Nor a papermill its batch's server; a killed one has died, and the next notebook is begun all the same."""
    with at_work(course) as process:
        server = next(child for child in psutil.Process(process.pid).children() if "forkserver" in str(child.cmdline()))
        papermill, = server.children()
        kernel, = papermill.children()
        papermill.kill()
        psutil.wait_procs([kernel], timeout=10)
        assert not kernel.is_running()
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and "seed9" in told and "died: papermill was ended by signal 9" in told
    assert planned(course, 8)[0].status().state == "done"


def test_a_killed_server_ends_its_notebook(course):
    with at_work(course) as process:
        server = next(child for child in psutil.Process(process.pid).children() if "forkserver" in str(child.cmdline()))
        server.kill()
        _, told = process.communicate(timeout=60)
    assert process.returncode == 1 and "died: it was ended, since the process that had begun it was killed" in told
    assert planned(course, 8)[0].status().state == "done"


def test_what_is_imported_in_advance_is_there():
    for name in warm.PRELOADED:
        importlib.import_module(name)


def test_where_another_process_is_at_work_nothing_starts(course):
    """As a second batch would find it, and what the kernel of a killed batch holds on to."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = [other.pid, psutil.Process(other.pid).create_time()]
    folder = planned(course, 0)[0].folder
    try:
        (folder / processes.LOCK).write_text(json.dumps(who))
        with pytest.raises(CourseError, match=f"Process {other.pid} is at work in"):
            planned(course, 0)
        with pytest.raises(CourseError, match="still open"):
            record.run_folder(load_experiment(NAME, profile="smoke", epochs=3), folder.parent)
        (folder / processes.LOCK).unlink()
        status.write_status(status.Status("a", "b", 0, 3, "waiting", process=who), folder)
        with pytest.raises(CourseError, match=f"Process {other.pid}"):
            planned(course, 0)
    finally:
        other.kill()
        other.wait()
    assert planned(course, 0)
    (folder / processes.LOCK).write_text(json.dumps(who))
    assert record.run_folder(load_experiment(NAME, profile="smoke", epochs=3), folder.parent) == folder  # taken over from the dead
    assert processes.at_work(folder) is None and (folder / processes.LOCK).exists()
    record.write(finished(0, profile="smoke"), folder)
    assert not (folder / processes.LOCK).exists()


def test_a_killed_batch_has_died(tmp_path):
    gone = [processes.this_process()[0], 1.0]  # its number is taken again, by a process that began later
    for state, told in (("running", "died"), ("waiting", "waiting"), ("done", "done")):
        status.write_status(status.Status("a", "b", 0, 3, state, process=gone), tmp_path)
        assert status.read_status(tmp_path).state == told
    with pytest.raises(CourseError, match="Legal: died, diverged"):
        status.Status("a", "b", 0, 3, "finished")
    (tmp_path / "status.json").write_text('{"state": 1')
    assert status.read_status(tmp_path) is None
