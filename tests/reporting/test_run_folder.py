"""Folders of runs: their names, their lock, and which files a new run removes."""
import os
import subprocess
import sys

import pytest
from helpers import finished_record

from course_utils.errors import CourseError
from course_utils.reporting import open_run_folder, write_record
from course_utils.reporting.lock import is_locked, release_folder
from course_utils.reporting.run_folder import reset, run_name
from course_utils.utils import REPO
from course_utils.variants import load_experiment

NAME = "cifar10_custom_resnet"
OPEN = """import os, sys
from course_utils.reporting import open_run_folder
from course_utils.variants import load_experiment
if os.name == "posix" and os.getuid() == 0:
    os.setuid(65534)  # root could write everywhere
open_run_folder(load_experiment("cifar10_custom_resnet"), sys.argv[1])
"""


def test_names_distinguish_runs():
    exp = load_experiment(NAME)
    custom = load_experiment("gtsrb_stn", "lenet", model="assignments/gtsrb_stn/best_net.py:SignNet")
    assert run_name(exp) == "published-24epochs-seed0"
    assert run_name(exp.replace(data="synthetic", epochs=3, seed=2)) == "published-3epochs-seed2-synthetic"
    assert run_name(load_experiment("gtsrb_stn", "best")).startswith("best-") and "SignNet" not in run_name(
        load_experiment("gtsrb_stn", "best"))
    assert run_name(load_experiment("gtsrb_stn", "lenet")) == "lenet-30epochs-track-seed0"
    assert run_name(custom) == "lenet-best_net-SignNet-30epochs-track-seed0"
    assert run_name(custom.replace(model="/x/my_net.py:Net")) == "lenet-my_net-Net-30epochs-track-seed0"


@pytest.mark.parametrize("profile", ["smoke", "mini"])
def test_small_runs_with_other_settings_do_not_replace_each_other(profile):
    """They do not keep what is in their folder."""
    def name(**settings):
        return run_name(load_experiment(NAME, profile=profile, **settings))

    plain, kind = name(), {"smoke": "synthetic", "mini": "mini"}[profile]
    assert plain.endswith(f"seed0-{kind}") and name(epochs=9).endswith(f"-9epochs-seed0-{kind}")
    changed = [name(**settings) for settings in ({"label_smoothing": 0.1}, {"label_smoothing": 0.2}, {"lr": 0.5},
                                                 {"augmentation": []})]
    assert len({plain, *changed}) == 5 and all(other.startswith(f"{plain}-") for other in changed)
    assert name(lr=0.5, epochs=9).startswith("published-9epochs-seed0-")


def test_half_written_checkpoints_of_a_killed_run_are_removed(tmp_path):
    exp = load_experiment(NAME)
    folder = tmp_path / run_name(exp)
    folder.mkdir()
    for name in (".epoch-0002-ab.pt.partial-77", "epoch-0001-ab.pt"):
        (folder / name).touch()
    open_run_folder(exp, tmp_path)
    assert not (folder / ".epoch-0002-ab.pt.partial-77").exists() and (folder / "epoch-0001-ab.pt").exists()
    release_folder(folder)


def test_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match=r"OUTPUT_DIR .* cannot be written: Not a directory\."):
        open_run_folder(load_experiment(NAME), tmp_path / "file" / "out")


@pytest.mark.skipif(os.name == "nt", reason="permissions of POSIX")
def test_read_only_folder_is_refused():
    """In a process without root's rights."""
    ran = subprocess.run([sys.executable, "-c", OPEN, "/usr"], capture_output=True, text=True, cwd=REPO)
    assert ran.returncode == 1 and "cannot be written: Permission denied." in ran.stderr


def test_smoke_run_restarts_and_full_run_resumes(tmp_path):
    for profile, stays in (("full", True), ("smoke", False)):
        exp = load_experiment(NAME, profile=profile)
        checkpoint = open_run_folder(exp, tmp_path) / "epoch-0001-ab.pt"
        checkpoint.touch()
        assert open_run_folder(exp, tmp_path) == checkpoint.parent
        assert checkpoint.exists() is stays
    assert len(list(tmp_path.glob("*/*.pt"))) == 1  # a smoke run does not touch the full run's folder


def test_folder_is_locked_until_its_record_is_written(tmp_path):
    folder = open_run_folder(load_experiment(NAME), tmp_path)
    assert is_locked(folder)
    write_record(finished_record(), folder)
    assert not is_locked(folder)


def test_reset_removes_every_stage_and_nothing_else(tmp_path):
    for name in ("epoch-0001-ab.pt", "stage2/epoch-0003-cd.pt", "progress.json", "stage2/progress.json", "record.json",
                 "lr_range.json", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    reset(tmp_path)
    assert [path.name for path in sorted(tmp_path.rglob("*")) if path.is_file()] == ["notes.txt"]
