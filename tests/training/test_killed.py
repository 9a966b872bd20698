"""Trainings in real processes that are killed: the resumed training is the same to the last bit."""
import random
import shutil
import signal
import time

import pytest

from course_utils.training.checkpoint import list_checkpoints, load_checkpoint

pytestmark = pytest.mark.slow
KILLS = 6


@pytest.mark.parametrize("number", range(KILLS))
def test_a_run_killed_at_a_random_moment_resumes_bit_equal(crash_worker, reference_run, tmp_path, number):
    (result, seconds), folder, exitcode = reference_run, tmp_path / "run", 0
    delay = (number + random.Random(number).random()) / KILLS * seconds
    while exitcode == 0:  # it was faster than the reference run: kill the next one sooner
        shutil.rmtree(folder, ignore_errors=True)
        process = crash_worker("train", folder)
        time.sleep(delay)
        process.kill()
        process.join(10)
        exitcode, delay = process.exitcode, 0.7 * delay
    assert exitcode == -signal.SIGKILL
    epochs = len(load_checkpoint(list_checkpoints(folder)[-1])["history"]) if list_checkpoints(folder) else 0
    resumed = crash_worker("train", folder)
    resumed.join(120)
    log = (folder / "log").read_text()
    assert resumed.exitcode == 0, log
    assert (folder / "result.json").read_text() == result
    assert (f"Resumed after epoch {epochs} of 3" in log) == (epochs > 0)


def test_a_kill_while_a_checkpoint_is_written_leaves_only_intact_ones(crash_worker, tmp_path):
    """At 50 random moments after the first; no partial file has a final name."""
    for number in range(50):
        folder = tmp_path / str(number)
        process = crash_worker("write_checkpoints", folder)
        while process.is_alive() and not list_checkpoints(folder):
            time.sleep(0.001)
        time.sleep(random.Random(number).uniform(0, 0.05))
        process.kill()
        process.join(10)
        assert process.exitcode == -signal.SIGKILL
        states = [load_checkpoint(path) for path in list_checkpoints(folder)]  # raises if one is damaged
        assert states and all((state["model"] == state["epoch"]).all() for state in states)
        assert {path.name[0] for path in folder.iterdir()} <= {"e", ".", "l"}  # epoch-*.pt, .*.partial-*, log
        shutil.rmtree(folder)
