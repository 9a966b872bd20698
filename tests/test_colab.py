"""Colab: installing what is missing and no more, and one address of the repository everywhere.

The rehearsal runs a notebook as Colab would: from the ``.ipynb`` alone, in an environment without this package, cloning
the address that it names, which git is configured to find in a bare repository here.
"""
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

from course_utils import colab
from course_utils.reporting.record import read_record
from course_utils.utils import REPO

NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
ADDRESS = re.compile(r"(?:github\.com|colab\.research\.google\.com/github)/([\w.-]+/[\w.-]+?)(?:\.git|/blob)")


def test_the_installed_torch_is_pinned_and_tools_are_left_out(monkeypatch, tmp_path):
    """So pip fails rather than replace it: with a requirement that the installed torch does not satisfy, too."""
    (tmp_path / "requirements.txt").write_text("-e .\ntorch>=99\nno-such-thing>=1  # why\nnumpy>=1\npytest>=999\n")
    monkeypatch.setattr(colab, "HOME", tmp_path)
    commands = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
    colab.set_up()
    pinned = [f"{name}=={metadata.version(name)}" for name in ("torch", "torchvision")]
    assert commands[0][commands[0].index("-q") + 1:] == ["torch>=99", "no-such-thing>=1", "numpy>=1", *pinned]


def test_one_address_everywhere():
    texts = {path: path.read_text() for path in (REPO / "README.md", *NOTEBOOKS)}
    address, = set().union(*(ADDRESS.findall(text) for text in texts.values()))
    for path, text in texts.items():
        assert f"colab.research.google.com/github/{address}/blob/main/notebooks/" in text, path


@pytest.fixture
def colab_machine(tmp_path):
    """Python as Colab's kernel has it: with torch and the rest, in the versions that are here; without torchinfo,
    filelock and this package. Installing what is missing takes a package index.
    """
    download = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", tmp_path / "pip"]
    if subprocess.run([*download, "torchinfo", "filelock"], capture_output=True).returncode:
        pytest.skip("no package index to install from")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    python = tmp_path / "env" / "bin" / "python"
    find = [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    place = Path(subprocess.run(find, capture_output=True, text=True, check=True).stdout.strip())
    for entry in Path(sysconfig.get_path("purelib")).iterdir():
        if not re.match("torchinfo|filelock|course_utils|__edit|pip|setuptools|_?distutils|google", entry.name):
            (place / entry.name).symlink_to(entry)
    startup, kernel = tmp_path / "ipython/profile_default/startup", tmp_path / "jupyter/kernels/colab"
    for folder in (place / "google" / "colab", startup, kernel):
        folder.mkdir(parents=True)
    (place / "google" / "colab" / "__init__.py").touch()
    (startup / "00.py").write_text("import google.colab\n")  # as Colab's kernels do
    (kernel / "kernel.json").write_text(json.dumps({
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"], "display_name": "Colab",
        "language": "python"}))
    return place


def clone_working_tree(work):
    """A commit of the working tree as it is now, in ``work``."""
    subprocess.run(["git", "clone", "-q", REPO, work], check=True)
    listed = subprocess.run(["git", "-C", REPO, "ls-files", "-m", "-o", "--exclude-standard"], capture_output=True,
                            text=True, check=True).stdout.splitlines()
    for name in listed:
        (work / name).unlink(missing_ok=True)
        if (REPO / name).is_file():
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(REPO / name, work / name)
    subprocess.run(["git", "-C", work, "add", "-A"], check=True)
    person = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "-C", work, *person, "commit", "-q", "--allow-empty", "-m", "as it is"], check=True)


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="links")
def test_notebook_alone_is_enough(colab_machine, tmp_path):
    bare, cwd = tmp_path / "bare.git", tmp_path / "content"
    clone_working_tree(tmp_path / "work")
    subprocess.run(["git", "clone", "-q", "--bare", tmp_path / "work", bare], check=True)
    address = ADDRESS.search(NOTEBOOKS[0].read_text())[1]
    (tmp_path / "gitconfig").write_text(f'[url "file://{bare}"]\n\tinsteadOf = https://github.com/{address}.git\n')
    cwd.mkdir()
    shutil.copy(NOTEBOOKS[0], cwd)
    outside = {**os.environ, "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig"), "IPYTHONDIR": str(tmp_path / "ipython"),
               "JUPYTER_PATH": str(tmp_path / "jupyter")}
    outside.pop("PYTHONPATH", None)
    ran = subprocess.run([sys.executable, "-m", "papermill", "01_gtsrb_stn.ipynb", "out.ipynb", "--kernel", "colab",
                          "--no-progress-bar", "-p", "VARIANT", "lenet", "-p", "EPOCHS", "1"],
                         cwd=cwd, env=outside, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-3000:]
    read_record(cwd / "course/outputs/gtsrb_stn/lenet-1epochs-track-seed0-synthetic/record.json")
    assert (colab_machine / "torchinfo").is_dir() and (colab_machine / "torch").is_symlink()
