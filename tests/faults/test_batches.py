"""Rows 8, 10, 13, 18 and 19, where a batch of notebooks sees them: real kernels, killed, hung, and out of room."""
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import files_of_at_most
from faults.table import said
from ill_fated import planned
from test_record import NAME, finished

from course_utils import batch, processes, record, status
from course_utils.errors import CourseError
from course_utils.experiment import load


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
    assert found[4].message == "Diverged: The loss is no longer a number in epoch 2."
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
    again[0].begin_anew()
    assert not again[0].done() and again[0].status().state == "waiting"


def test_memory_that_is_not_there_has_its_own_state(course):
    found, = batch.Batch(planned(course, 5), [{}]).run()
    assert (found.state, found.message) == ("out of memory", "MemoryError: not that much")


def test_a_disk_too_full_for_the_notebook(course):
    """Neither does half of it stay, nor does another run care."""
    jobs = planned(course, 10, 0)
    with files_of_at_most(50_000):
        found = batch.Batch(jobs, [{}]).run()
    assert [one.state for one in found] == ["failed", "done"]
    assert re.search(r"File too large.*03_cifar10_custom_resnet.ipynb.* MB free", found[0].message)
    assert not list(jobs[0].folder.glob("*.ipynb")) and not list(course.rglob("*partial*"))
    assert {one.state for one in batch.Batch(planned(course, 10), [{}]).run()} == {"done"}


SCRIPT = """
import os, signal, sys
from pathlib import Path
from course_utils import batch, headless
from course_utils.experiment import load
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
batch.REPO = headless.REPO = Path(sys.argv[1])
runs = [load("cifar10_custom_resnet", profile="smoke", seed=seed, epochs=3) for seed in (9, 8)]
jobs = batch.plan(runs, {"EPOCHS": 3}, batch.REPO / "out put")
try:
    batch.Batch(jobs, [{}]).run(lambda: print(jobs[0].status().state, flush=True))
except KeyboardInterrupt:
    print(*(job.status().state for job in jobs))
"""


@contextlib.contextmanager
def interrupted(course, times):
    """A batch that gets Ctrl-C while its first kernel, deaf to signals, is at work; gives the lines it printed."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(course)], stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.DEVNULL)
    begun = []
    for _ in process.stdout:
        begun = psutil.Process(process.pid).children(recursive=True)
        if len(begun) >= 4:  # the server, its tracker, papermill, and the kernel
            break
    time.sleep(3)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=40)
    _, alive = psutil.wait_procs(begun, timeout=2)
    assert len(begun) >= 4 and [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    yield out.splitlines()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupted_batch_ends_its_children_and_can_go_on(course):
    with interrupted(course, 1) as lines:
        assert lines[-1] == "waiting waiting"
    (course / "mended").touch()
    assert {one.state for one in batch.Batch(planned(course, 9, 8), [{}]).run()} == {"done"}


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupted_twice_it_still_leaves_nothing_behind(course):
    """The second Ctrl-C comes while the first one's work is done."""
    with interrupted(course, 2):
        pass


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
            record.run_folder(load(NAME, profile="smoke", epochs=3), folder.parent)
        (folder / processes.LOCK).unlink()
        status.write_status(status.Status("a", "b", 0, 3, "waiting", process=who), folder)
        with pytest.raises(CourseError, match=f"Process {other.pid}"):
            planned(course, 0)
    finally:
        other.kill()
        other.wait()
    assert planned(course, 0)
    (folder / processes.LOCK).write_text(json.dumps(who))
    assert record.run_folder(load(NAME, profile="smoke", epochs=3), folder.parent) == folder  # taken over from the dead
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
