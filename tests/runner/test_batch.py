"""BatchLoader of notebooks: what is planned, what is done, what is told. What befalls them: faults/test_batches.py."""
import os
import subprocess
import sys
import time

import nbformat
import pytest
from ill_fated import planned
from test_record import NAME, finished

from course_utils.reporting import record
from course_utils.runner import batch, estimate, execute as headless, live, processes, status
from course_utils.__main__ import main
from course_utils.errors import CourseError
from course_utils.variants import load_experiment
from course_utils.utils import REPO


def test_another_experiment_is_not_done(course):
    job, = planned(course, 0)
    batch.Batch([job], [{}]).run()
    other = batch.Job(job.exp.replace(lr=0.5), job.folder, job.parameters)
    assert job.done() and not other.done()


def test_a_finished_run_of_another_experiment_is_not_overwritten(course):
    made = finished(0)
    folder = batch.plan([load_experiment(NAME, epochs=3)], {"EPOCHS": 3}, course / "out")[0].folder
    record.write(made, folder)
    with pytest.raises(CourseError, match=r"(?s)another experiment.*lr: None there, 0.5 asked for"):
        batch.plan([load_experiment(NAME, epochs=3, lr=0.5)], {"EPOCHS": 3}, course / "out")
    batch.plan([load_experiment(NAME, epochs=3, lr=0.5)], {"EPOCHS": 3}, course / "out", again=True)
    made["experiment"]["about"] = "said otherwise"
    record.write(made, folder)
    job, = batch.plan([load_experiment(NAME, epochs=3)], {"EPOCHS": 3}, course / "out")
    assert job.differs() == []


def test_what_fails_outside_a_notebook_stops_no_other_run(course, monkeypatch):
    jobs = planned(course, 0, 7, 8)
    keep = headless._keep

    def full(output, folder, stopping):
        if "seed7" in folder.name:
            raise OSError(28, "No space left on device")
        return keep(output, folder, stopping)

    monkeypatch.setattr(headless, "_keep", full)
    monkeypatch.setattr("nbconvert.HTMLExporter", None)  # pages are a help: without them a run is as good
    found = batch.Batch(jobs, [{}]).run()
    assert [one.state for one in found] == ["done", "failed", "done"] and "No space left" in found[1].message


def test_progress_counts_all_stages(tmp_path):
    rows = [{"epoch": k, "val_accuracy": k / 10, "seconds": 2.0} for k in (1, 2)]
    status.note_progress(tmp_path, rows)
    (tmp_path / "stage2").mkdir()
    status.note_progress(tmp_path / "stage2", [{"epoch": 1, "test_accuracy": 0.9, "seconds": 5.0}])
    assert status.progress(tmp_path) == {"epoch": 3, "accuracy": 0.9, "seconds": 9.0}
    status.write_status(status.Status("a", "b", 0, 6, "running", begun=time.time() - 60,
                                      process=processes.this_process()), tmp_path)
    told = ["a", tmp_path.name, "running", "3/6", "90.00%", "1.0", "0.1"]
    assert live.table([tmp_path]).splitlines()[1].split() == told


def test_a_log_gets_a_line_whenever_something_changes(tmp_path, capsys):
    with live.board([tmp_path]) as tell:
        for state in ("waiting", "waiting", "running", "running"):
            status.write_status(status.Status("a", "b", 0, 6, state, process=processes.this_process()), tmp_path)
            tell()
    assert capsys.readouterr().out.splitlines() == [f"a  {tmp_path.name}  waiting", f"a  {tmp_path.name}  running  0/6"]


@pytest.mark.parametrize(("code", "error", "log", "state"), [
    (0, "", "", "done"),
    (None, "", "", "hung"),
    (-9, "", "[IPKernelApp] WARNING | Parent appears to have exited", "died"),
    (1, "", "x\nnbclient.exceptions.DeadKernelError: Kernel died", "died"),
    (1, "", "nbclient.exceptions.CellTimeoutError: A cell timed out while it was being executed, after 8 s", "hung"),
    (1, "", "nbclient.exceptions.CellTimeoutError: Timeout waiting for IOPub output", "failed"),
    (1, "RuntimeError: CUDA error: out of memory", "", "out of memory"),
    (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "", "out of memory"),
    (1, "OutOfMemoryError: CUDA out of memory.", "", "out of memory"),
    (1, "DivergenceError: The loss is no longer a number", "", "diverged"),
    (1, "CourseError: my_net.py, line 3, in forward:\n    y = x\nNameError: name 'x'", "KeyError: 1", "failed"),
    (1, "StopIteration: ", "", "failed"),
])
def test_what_a_notebook_left_says_what_became_of_it(code, error, log, state):
    found, words = headless._verdict(code, error, log)
    assert found == state and (words == error or not error)


def test_what_cannot_be_stops_before_anything_runs(tmp_path):
    smoke = load_experiment(NAME, profile="smoke")
    with pytest.raises(CourseError, match="Did you mean 'EPOCHS'"):
        batch.plan([smoke], {"EPOCH": 3}, tmp_path)
    with pytest.raises(CourseError, match="name each once"):
        batch.plan([smoke, smoke], {}, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match="cannot be written"):
        batch.plan([smoke], {}, tmp_path / "file")


def test_the_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert batch.slots(3) == [{"OMP_NUM_THREADS": "2"}] * 3 and batch.slots() == [{}]
    threads = {"OMP_NUM_THREADS": "4"}
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert batch.slots(3) == [{"CUDA_VISIBLE_DEVICES": name} | threads for name in "01"]
    for listed in ("5,7", "5, 7", "5,7,-1,8"):  # what CUDA does not have, or what follows -1, it leaves out
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        assert batch.slots(3) == [{"CUDA_VISIBLE_DEVICES": name} | threads for name in "57"]


@pytest.mark.parametrize(("name", "value", "said"), [
    ("VARIANT", "publish", "Did you mean 'published'? Legal: published."),
    ("SEED", "one", "seed = 'one': must be int."),
])
def test_an_unlawful_value_stops_the_notebook_in_its_first_cells(tmp_path, name, value, said):
    """Given to papermill itself; our own runner would have refused it."""
    source, out = REPO / "notebooks" / "03_cifar10_custom_resnet.ipynb", tmp_path / "out.ipynb"
    ran = subprocess.run([sys.executable, "-m", "papermill", source, out, "--cwd", REPO, "-r", name, value],
                         capture_output=True, text=True)
    assert ran.returncode != 0 and said in headless._last_error(out.read_text())
    cells = [c for c in nbformat.read(out, 4).cells if c.cell_type == "code" and c.execution_count]
    assert len(cells) <= 4  # bootstrap, parameters, papermill's own, and the one that reads the experiment


@pytest.mark.parametrize(("words", "said"), [
    (["run", "cifar10"], "Unknown assignment: 'cifar10'"),
    (["run", "cifar10_custom_resnet:fast"], "published"),
    (["data", "mnist"], "cifar10"),
    (["adopt", "nowhere"], "no executed notebook"),
])
def test_wrong_words_are_answered_with_the_right_ones(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_seeds_and_settings_reach_every_run(monkeypatch, capsys, tmp_path):
    asked = []

    class Noted(batch.Batch):
        def run(self, tell=None):
            for number, job in enumerate(self.jobs):
                asked.append((job.exp.variant, job.exp.seed, job.exp.split, job.exp.epochs, job.parameters["SPLIT"]))
                self._note(number, "done", accuracy=0.5)

    monkeypatch.setattr(batch, "Batch", Noted)
    monkeypatch.setattr(estimate, "estimates", lambda exps, _: [estimate.Estimate(1.0, "a guess") for _ in exps])
    words = ["run", "gtsrb_stn:lenet", "gtsrb_stn:best", "--profile", "full", "--seeds", "0,3"]
    assert main([*words, "--output", str(tmp_path), "--set", "split=random", "--set", "EPOCHS=7"]) == 0
    assert asked == [(v, s, "random", 7, "random") for v in ("lenet", "best") for s in (0, 3)]
    assert capsys.readouterr().out.count("50.00%") == 4
    assert main(["status", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("done") == 4
    assert main(["status", "--output", str(tmp_path / "none")]) == 0
    assert "No runs in" in capsys.readouterr().out
    for setting, told in (("seed=1", "--seeds"), ("output_dir=x", "--output"), ("data_dir=x", "COURSE_DATA")):
        assert main(["run", "gtsrb_stn", "--set", setting]) == 2
        assert told in capsys.readouterr().err
    assert main(["run", "gtsrb_stn", "--set", "split=tracks"]) == 2
    assert "Did you mean 'track'" in capsys.readouterr().err
    for words in (["--set", "split"], ["--jobs", "0"], ["--limit", "nan"], ["--seeds", "0-4"]):
        with pytest.raises(SystemExit):
            main(["run", *words])
