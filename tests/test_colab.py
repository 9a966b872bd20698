"""What Colab needs: installing what is missing and no more, copies that are checked, one address everywhere.

The rehearsal runs a notebook as Colab would: from the ``.ipynb`` alone, in an environment without this package, cloning
the address that it names, which git is told to find in a bare repository here.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from course_utils import colab, config as experiment
from course_utils.reporting import address, readme as report, record
from course_utils.__main__ import main
from course_utils.errors import CourseError
from course_utils.utils import REPO

NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))


def test_nothing_is_missing_here():
    assert colab.missing() == []


def test_what_is_missing_is_told_and_torch_is_never_installed(monkeypatch, tmp_path):
    (tmp_path / "requirements.txt").write_text("-e .\ntorch>=99\nno-such-thing>=1  # why\nnumpy>=1\npytest>=999\n")
    monkeypatch.setattr(colab, "REPO", tmp_path)
    assert colab.missing() == ["torch>=99", "no-such-thing>=1"]
    monkeypatch.setattr(subprocess, "run", None)  # nothing is called
    with pytest.raises(CourseError, match="never replaces the torch"):
        colab.set_up()


def test_copies_are_read_back_and_what_says_whole_comes_last(tmp_path, monkeypatch):
    source, target = tmp_path / "here", tmp_path / "there"
    for name in ("cifar10/meta.json", "cifar10/a.npy", "stl10/z.npy", ".trial-1"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    order = []
    replace = os.replace
    monkeypatch.setattr(os, "replace", lambda old, new: (order.append(Path(new).name), replace(old, new)))
    assert colab.copy_checked(source, target) == 3 and order[-1] == "meta.json"
    assert colab.copy_checked(source, target) == 0 and colab.copy_checked(target, source) == 0
    (source / "cifar10" / "a.npy").write_text("longer than before")
    assert colab.copy_checked(source, target) == 1
    assert (target / "cifar10" / "a.npy").read_text() == "longer than before"
    (source / "cifar10" / "a.npy").write_text("newer")
    os.utime(target / "cifar10" / "a.npy", (1, 1))
    assert colab.copy_checked(target, source) == 0  # what is older replaces nothing
    (source / "epoch-0001.pt").touch()
    assert colab.copy_checked(source, target, without=".pt") == 1 and not (target / "epoch-0001.pt").exists()


def test_a_copy_that_came_out_different_gets_no_name(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "a.npy").write_text("whole")
    monkeypatch.setattr(shutil, "copy2", lambda _, partial: Path(partial).write_text("half"))
    with pytest.raises(CourseError, match="came out different"):
        colab.copy_checked(tmp_path / "here", tmp_path / "there")
    assert list((tmp_path / "there").iterdir()) == []


def test_a_mounted_drive_keeps_data_and_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(colab, "DRIVE", tmp_path / "drive")
    monkeypatch.setattr(colab, "REPO", tmp_path / "course")
    monkeypatch.setenv("COURSE_DATA", str(tmp_path / "data"))
    (tmp_path / "data" / "gtsrb").mkdir(parents=True)
    (tmp_path / "data" / "gtsrb" / "meta.json").write_text("{}")
    colab.keep()
    assert not (tmp_path / "drive").exists()  # none is mounted
    (tmp_path / "drive").mkdir()
    colab.keep()
    assert (tmp_path / "drive" / "course" / "data" / "gtsrb" / "meta.json").exists()
    shutil.rmtree(tmp_path / "data")
    monkeypatch.setattr(colab, "missing", list)
    colab.set_up()
    assert (tmp_path / "data" / "gtsrb" / "meta.json").exists() and "1 files copied" in capsys.readouterr().out


def test_one_address_everywhere():
    for path in [REPO / "README.md", *NOTEBOOKS]:
        named = re.findall(r"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/[\w.-]+?)(?:\.git|/blob)",
                           path.read_text())
        assert named and set(named) == {address.current()}, path
    for path in NOTEBOOKS:
        assert address.badge(path.stem) in "".join(json.loads(path.read_text())["cells"][0]["source"])


def test_one_command_changes_it(tmp_path, monkeypatch, capsys):
    for path in ("pyproject.toml", "README.md", *(f"notebooks/{p.name}" for p in NOTEBOOKS)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        shutil.copy(REPO / path, tmp_path / path)
    shutil.copytree(REPO / "assignments", tmp_path / "assignments", ignore=shutil.ignore_patterns("runs", "results"))
    for module in (address, experiment, record, report):
        monkeypatch.setattr(module, "REPO", tmp_path)
    for module in (experiment, record, report):
        monkeypatch.setattr(module, "ASSIGNMENTS", tmp_path / "assignments")
    before = address.current()
    assert main(["repo", "ada/deep-course"]) == 0
    changed = [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()]
    assert address.current() == "ada/deep-course"
    assert {str(tmp_path / "README.md"), *(str(tmp_path / "notebooks" / p.name) for p in NOTEBOOKS)} <= set(changed)
    for name in changed:
        assert f"{before}.git" not in Path(name).read_text() and f"github/{before}" not in Path(name).read_text()
    notebook = (tmp_path / "notebooks" / NOTEBOOKS[0].name).read_text()
    assert "git clone -q --depth 1 https://github.com/ada/deep-course.git course" in notebook
    for wrong in ("ada", "ada/deep.git", "https://github.com/ada/deep"):
        assert main(["repo", wrong]) == 2 and "OWNER/NAME" in capsys.readouterr().err


@pytest.fixture
def colab_machine(tmp_path):
    """Python as Colab's kernel has it: with torch and the rest, in the versions that are here; without torchinfo and
    this package. Installing the one thing that is missing takes a package index.
    """
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp_path / "pip", "torchinfo"]
    asked = subprocess.run(download, capture_output=True)
    if asked.returncode:
        pytest.skip("no package index to install from")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    ask = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    place = Path(subprocess.run(ask, capture_output=True, text=True, check=True).stdout.strip())
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match("torchinfo|course_utils|__editable__|pip|setuptools|_distutils|distutils|google", entry.name):
            (place / entry.name).symlink_to(entry)
    (place / "google" / "colab").mkdir(parents=True)
    (place / "google" / "colab" / "__init__.py").touch()
    startup = tmp_path / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00.py").write_text("import google.colab\n")  # as Colab's kernels do
    kernel = tmp_path / "jupyter" / "kernels" / "colab"
    kernel.mkdir(parents=True)
    (kernel / "kernel.json").write_text(json.dumps({
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Colab",
        "language": "python"}))
    return place


@pytest.mark.skipif(os.name == "nt", reason="links")
def test_a_notebook_alone_is_enough(colab_machine, tmp_path):
    bare, cwd = tmp_path / "bare.git", tmp_path / "content"
    work = tmp_path / "work"  # what is tested is the working tree, committed or not
    subprocess.run(["git", "clone", "-q", REPO, work], check=True)
    listed = subprocess.run(["git", "-C", REPO, "ls-files", "-m", "-o", "--exclude-standard"], capture_output=True,
                            text=True, check=True).stdout.splitlines()
    for name in listed:
        if (REPO / name).is_file():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, work / name)
    person = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", work, "add", "-A"], check=True)
    subprocess.run(["git", "-C", work, *person, "commit", "-q", "--allow-empty", "-m", "as it is"], check=True)
    subprocess.run(["git", "clone", "-q", "--bare", work, bare], check=True)
    (tmp_path / "gitconfig").write_text(
        f'[url "file://{bare}"]\n\tinsteadOf = https://github.com/{address.current()}.git\n')
    cwd.mkdir()
    shutil.copy(REPO / "notebooks" / "01_gtsrb_stn.ipynb", cwd)
    outside = {**os.environ, "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"), "IPYTHONDIR": str(tmp_path / "ipython"),
               "JUPYTER_PATH": str(tmp_path / "jupyter")}
    outside.pop("PYTHONPATH", None)
    ran = subprocess.run([sys.executable, "-m", "papermill", "01_gtsrb_stn.ipynb", "out.ipynb", "--kernel", "colab",
                          "--no-progress-bar", "-p", "VARIANT", "lenet", "-p", "EPOCHS", "1"],
                         cwd=cwd, env=outside, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    record.read(cwd / "course" / "outputs" / "gtsrb_stn" / "lenet-1epochs-track-seed0-sample" / "record.json")
    assert "installed torchinfo" in (cwd / "out.ipynb").read_text()
    assert (colab_machine / "torchinfo").is_dir() and (colab_machine / "torch").is_symlink()
