"""Batches: what is planned, refused and skipped, and how a run's end is classified."""
import dataclasses
import os
import time

import pytest
import torch
from helpers import finished_record

from course_utils.__main__ import main
from course_utils.data import DATASETS
from course_utils.errors import CourseError
from course_utils.reporting import write_record
from course_utils.reporting.lock import lock_folder, release_folder
from course_utils.runner import batch, execute, status
from course_utils.training.checkpoint import write_progress
from course_utils.variants import load_experiment

NAME = "cifar10_custom_resnet"


@pytest.mark.parametrize(("code", "error", "log", "state"), [
    (0, "", "", "done"),
    (None, "", "", "timeout"),
    (-9, "", "[IPKernelApp] WARNING | Parent appears to have exited", "killed"),
    (1, "", "x\nnbclient.exceptions.DeadKernelError: Kernel died", "killed"),
    (1, "", "nbclient.exceptions.CellTimeoutError: A cell timed out while it was being executed, after 8 s", "timeout"),
    (1, "", "nbclient.exceptions.CellTimeoutError: Timeout waiting for IOPub output", "failed"),
    (1, "RuntimeError: CUDA error: out of memory", "", "out of memory"),
    (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "", "out of memory"),
    (1, "OutOfMemoryError: CUDA out of memory.", "", "out of memory"),
    (1, "DivergenceError: The loss is NaN or infinite", "", "diverged"),
    (1, "CourseError: my_net.py, line 3, in forward:\n    y = x\nNameError: name 'x'", "KeyError: 1", "failed"),
    (1, "StopIteration: ", "", "failed"),
])
def test_ends_are_classified(code, error, log, state):
    found, message = execute._classify(code, error, log)
    assert found == state and (message == error or not error)


def test_invalid_plans_are_rejected_before_running(tmp_path):
    smoke = load_experiment(NAME, profile="smoke")
    with pytest.raises(CourseError, match="Did you mean 'EPOCHS'"):
        batch.plan_jobs([smoke], {"EPOCH": 3}, tmp_path)
    with pytest.raises(CourseError, match="name each once"):
        batch.plan_jobs([smoke, smoke], {}, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match="cannot be written"):
        batch.plan_jobs([smoke], {}, tmp_path / "file")
    with pytest.raises(CourseError, match="There is no notebook"):
        execute.check_parameters(tmp_path / "x.ipynb", {})


def test_finished_run_of_another_experiment_is_not_overwritten(tmp_path):
    def plan(**settings):
        return batch.plan_jobs([load_experiment(NAME, epochs=3, **settings)], {"EPOCHS": 3}, tmp_path)[0]

    made, folder = finished_record(), plan().folder
    write_record(made, folder)
    with pytest.raises(CourseError, match=r"(?s)another experiment.*--restart.*lr: found None, requested 0\.5"):
        plan(lr=0.5)
    batch.plan_jobs([load_experiment(NAME, epochs=3, lr=0.5)], {"EPOCHS": 3}, tmp_path, restart=True)
    made["experiment"]["about"] = "another description"
    write_record(made, folder)
    assert plan().differences() == []


def test_a_run_on_own_data_that_was_prepared_again_is_not_done(tmp_path, monkeypatch):
    job, = batch.plan_jobs([load_experiment(NAME, epochs=3)], {"EPOCHS": 3}, tmp_path)
    made = finished_record()
    write_record(made, job.folder)
    info = dataclasses.replace(DATASETS["cifar10"], archives=())  # as own data has none
    monkeypatch.setitem(batch.DATASETS, "cifar10", info)
    assert job.differences() == []
    monkeypatch.setitem(batch.DATASETS, "cifar10", dataclasses.replace(info, sha256={"train_images": "0"}))
    assert job.differences() == ["data: found another cifar10"]


def test_only_the_same_finished_experiment_is_done(tmp_path):
    job, = batch.plan_jobs([load_experiment(NAME, epochs=3)], {"EPOCHS": 3}, tmp_path)
    assert not job.is_done()
    write_record(finished_record(), job.folder)
    (job.folder / f"{job.notebook}.ipynb").touch()
    status.write_status(status.Status(NAME, 3, "done"), job.folder)
    assert job.is_done() and not dataclasses.replace(job, exp=job.exp.replace(lr=0.5)).is_done()
    job.reset()
    assert not job.is_done() and job.differences() is None and status.read_status(job.folder) is None


def test_progress_counts_all_stages(tmp_path):
    write_progress(tmp_path, [{"epoch": k, "val_accuracy": k / 10, "seconds": 2.0} for k in (1, 2)])
    (tmp_path / "stage2").mkdir()
    write_progress(tmp_path / "stage2", [{"epoch": 1, "test_accuracy": 0.9, "seconds": 5.0}])
    assert status.read_progress(tmp_path) == {"epoch": 3, "accuracy": 0.9, "seconds": 9.0}
    lock_folder(tmp_path, status.BATCH_LOCK)
    status.write_status(status.Status("a", 6, "running", started_at=time.time() - 60), tmp_path)
    row = ["a", tmp_path.name, "running", "3/6", "90.00%", "1.0", "0.1"]
    assert status.status_table([tmp_path]).splitlines()[1].split() == row
    release_folder(tmp_path, status.BATCH_LOCK)
    (tmp_path / "stage10").mkdir()
    write_progress(tmp_path / "stage10", [{"epoch": 1, "test_accuracy": 0.95, "seconds": 5.0}])
    assert status.read_progress(tmp_path)["accuracy"] == 0.95  # the last stage's


@pytest.mark.parametrize(("state", "shown"), [("running", "killed"), ("waiting", "waiting"), ("done", "done")])
def test_run_of_a_killed_batch_reads_as_killed(tmp_path, state, shown):
    """Nobody holds the folder's lock."""
    status.write_status(status.Status("a", 3, state), tmp_path)
    assert status.read_status(tmp_path).state == shown


@pytest.mark.parametrize("text", ["[]", "{}", "5", '{"epoch": "x"}'])
def test_unreadable_progress_is_none(tmp_path, text):
    (tmp_path / "progress.json").write_text(text)
    assert status.read_progress(tmp_path) == {"epoch": 0, "seconds": 0, "accuracy": None}


@pytest.mark.parametrize("text", ['{"state": 1', "[]", '{"assignment": "a", "epochs": 1, "state": "finished"}'])
def test_unreadable_status_is_none(tmp_path, text):
    (tmp_path / "status.json").write_text(text)
    assert status.read_status(tmp_path) is None and status.status_rows([tmp_path]) == []


def test_cores_and_gpus_are_shared(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert batch.worker_slots(3) == [{"OMP_NUM_THREADS": "2"}] * 3 and batch.worker_slots() == [{}]
    threads = {"OMP_NUM_THREADS": "4"}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert batch.worker_slots() == [{}]  # COURSE_DEVICE=cpu
    monkeypatch.delenv("COURSE_DEVICE")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert batch.worker_slots() == [{"CUDA_VISIBLE_DEVICES": name} | threads for name in "01"]
    shared = {"OMP_NUM_THREADS": "2"}  # two runs on each GPU
    assert batch.worker_slots(2) == [{"CUDA_VISIBLE_DEVICES": name} | shared for name in "0101"]
    for listed in ("5,7", "5, 7", "5,7,-1,8"):  # what CUDA does not have, or what follows -1, it leaves out
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        assert batch.worker_slots() == [{"CUDA_VISIBLE_DEVICES": name} | threads for name in "57"]


@pytest.mark.parametrize(("words", "message"), [
    (["run", "cifar10"], "Unknown assignment: 'cifar10'"),
    (["run", "cifar10_custom_resnet:fast"], "published"),
    (["run", "gtsrb_stn", "--set", "seed=1"], "--seeds"),
    (["run", "gtsrb_stn", "--set", "output_dir=x"], "--output"),
    (["run", "gtsrb_stn", "--set", "data_dir=x"], "COURSE_DATA"),
    (["run", "gtsrb_stn", "--set", "num_workrs=1"], "Did you mean 'NUM_WORKERS'"),
    (["run", "gtsrb_stn", "--set", "split=tracks"], "Did you mean 'track'"),
    (["data", "mnist"], "cifar10"), (["run", NAME, "--set", "settings=5"], "must be a table"),
    (["run", NAME, "--set", "dataset=mnist"], "Unknown data set: 'mnist'. Legal: cif"),
    (["run", NAME, "--set", 'settings={"epochs": 3}'], "epochs is a parameter of its own: --set epochs=3"),
    (["run", NAME, "--set", 'settings={"seed": 3}'], "seed is a parameter of its own"),
    (["run", NAME, "--set", "model=resnett"], "Unknown model: 'resnett'"),
    (["run", NAME, "--set", 'settings={"augmentation": [{"name": "blur"}]}'], "Unknown transform: 'blur'"),
    (["publish", "nowhere"], "is not a record"),
    (["check", "gtsrb_stn", "--model", "nowhere.py:Net"], "nowhere.py"),
])
def test_invalid_command_names_what_is_valid(words, message, capsys):
    assert main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--set", "split"], ["--jobs", "0"], ["--limit", "nan"], ["--seeds", "0-4"]])
def test_invalid_option_is_refused(words, capsys):
    with pytest.raises(SystemExit):
        main(["run", *words])
    assert words[1] in capsys.readouterr().err


def test_missing_data_is_reported_before_running(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("COURSE_DATA", str(tmp_path))
    assert main(["run", "gtsrb_stn:lenet", "--profile", "full", "--output", str(tmp_path / "out")]) == 2
    assert "No prepared gtsrb" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_seeds_and_settings_reach_every_run(monkeypatch, capsys, tmp_path):
    """Planned and printed for real; no notebook is executed."""
    ran = []

    def run_notebook(notebook, parameters, *rest):
        ran.append(parameters)
        return "failed", "not executed"

    monkeypatch.setattr(batch, "run_notebook", run_notebook)
    words = ["run", "gtsrb_stn:lenet", "gtsrb_stn:best", "--seeds", "0,3", "--output", str(tmp_path)]
    assert main([*words, "--set", "split=random", "--set", "EPOCHS=7"]) == 1
    assert [(p["VARIANT"], p["SEED"], p["SPLIT"], p["EPOCHS"]) for p in ran] == [
        (variant, seed, "random", 7) for variant in ("lenet", "best") for seed in (0, 3)]
    assert capsys.readouterr().err.count("failed: not executed") == 4
    assert main(["status", "--output", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert out.count("lenet-7epochs-random-seed3-synthetic") == 2 and out.count("not executed") == 4
    assert main(["status", "--output", str(tmp_path / "none")]) == 0
    assert "No runs in" in capsys.readouterr().out
