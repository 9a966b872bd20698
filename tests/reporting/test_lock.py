"""Locks on folders, held by real processes."""
import contextlib
import os
import platform
import subprocess
import sys
import threading
import time

import pytest

from course_utils.errors import CourseError
from course_utils.reporting import lock
from course_utils.reporting.lock import is_held, is_locked, lock_folder, release_folder
from course_utils.utils import REPO

LOCKER = """import sys
from pathlib import Path
from course_utils.reporting.lock import lock_folder
lock_folder(Path(sys.argv[1]))
print("locked", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked_by_another_process(folder):
    process = subprocess.Popen([sys.executable, "-c", LOCKER, str(folder)], stdin=subprocess.PIPE,
                               stdout=subprocess.PIPE, text=True, cwd=REPO)
    try:
        assert process.stdout.readline() == "locked\n"
        yield process
    finally:
        process.kill()
        process.wait()


def test_second_process_is_refused_and_a_killed_one_replaced_at_once(tmp_path):
    with locked_by_another_process(tmp_path) as process:
        start = time.monotonic()
        with pytest.raises(CourseError, match=rf"Process {process.pid} on {platform.node()}.* is using {tmp_path}"):
            lock_folder(tmp_path)
        assert is_locked(tmp_path)
        process.kill()
        process.wait()
        assert (tmp_path / ".lock").exists() and not is_locked(tmp_path)
        lock_folder(tmp_path)
        assert time.monotonic() - start < 2 and is_locked(tmp_path)
        lock_folder(tmp_path)  # once more in the same process
    with pytest.raises(AssertionError), locked_by_another_process(tmp_path):
        pass
    release_folder(tmp_path)
    assert not (tmp_path / ".lock").exists()
    with locked_by_another_process(tmp_path), pytest.raises(CourseError, match="is using"):
        lock_folder(tmp_path)


def test_a_lock_file_that_was_cut_short_is_taken_over(tmp_path):
    (tmp_path / ".lock").touch()
    os.utime(tmp_path / ".lock", (time.time() - 60,) * 2)
    start = time.monotonic()
    lock_folder(tmp_path)
    assert time.monotonic() - start < 2 and is_locked(tmp_path)
    release_folder(tmp_path)


@pytest.fixture
def short_lease(monkeypatch):
    monkeypatch.setattr(lock, "LEASE_SECONDS", 1.0)
    lock._lease.cache_clear()
    yield
    lock._lease.cache_clear()


def test_lock_of_another_host_holds_while_it_shows_signs_of_life(tmp_path, short_lease):
    path, stop = tmp_path / ".lock", threading.Event()
    path.write_text("filelock/2\npid=77\nhost=other\nmode=lease\ntoken=ab\nduration=1.0\n")

    def heartbeat():
        while not stop.wait(0.2):
            os.utime(path)

    other = threading.Thread(target=heartbeat)
    other.start()
    try:
        with pytest.raises(CourseError, match="Process 77 on other is using"):
            lock_folder(tmp_path)
        assert is_locked(tmp_path)
    finally:
        stop.set()
        other.join()
    lock_folder(tmp_path)  # a lease without a sign of life has passed
    assert f"pid={os.getpid()}" in path.read_text()
    release_folder(tmp_path)


@pytest.mark.parametrize("text", ["[4711, 1764240000.0]", "filelock/2\npid=47"])
def test_lock_file_that_names_no_process_is_taken_over(tmp_path, text):
    """As the first edition left them, or one cut short."""
    (tmp_path / ".lock").write_text(text)
    lock_folder(tmp_path)
    assert f"pid={os.getpid()}" in (tmp_path / ".lock").read_text()
    release_folder(tmp_path)


def test_folder_lost_to_another_host_during_a_pause_interrupts_its_old_owner(tmp_path, short_lease):
    """Two would write there otherwise."""
    lock_folder(tmp_path)
    assert is_held(tmp_path)
    (tmp_path / "new").write_text("filelock/2\npid=77\nhost=other\nmode=lease\ntoken=ab\nduration=1.0\n")
    (tmp_path / "new").replace(tmp_path / ".lock")  # what the other host did meanwhile
    assert not is_held(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        time.sleep(10)
    release_folder(tmp_path)
    assert "host=other" in (tmp_path / ".lock").read_text()  # the folder stays the other's
