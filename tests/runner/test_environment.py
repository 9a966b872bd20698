"""Odd places to run in, and very many runs: paths, locales, homes and networks that are not as at home."""
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import psutil
import pytest

from course_utils.reporting import record
from course_utils.runner import batch
from course_utils.variants import load_experiment
from course_utils.utils import REPO

ALOOF = """
import fcntl, os, socket, struct, subprocess, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x41))  # SIOCSIFFLAGS: its own address, nobody else's
for folder in sys.argv[1:3]:
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    assert not os.access(folder, os.W_OK)
os.chdir(sys.argv[1])
os.execve(sys.executable, [sys.executable, "-m", "course_utils", *sys.argv[3:]],
          {"PATH": os.environ["PATH"], "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONPATH": sys.argv[1]})
"""


def isolated(*flags):
    """The command that runs another in namespaces of its own; the test is skipped where the system forbids it."""
    command = ["unshare", "--user", *flags]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs Linux with user namespaces")
    return command


@pytest.fixture
def checkout(tmp_path):
    """A copy of what a run needs, in a folder with spaces and letters of other languages."""
    place = tmp_path / "Kurs für 学生" / "co urse"
    for part in ("course_utils", "assignments", "notebooks"):
        shutil.copytree(REPO / part, place / part, ignore=shutil.ignore_patterns("__pycache__", "runs", "results"))
    return place


def whole(place, words, ran):
    assert ran.returncode == 0, ran.stdout + ran.stderr
    folder, = Path(words[words.index("--output") + 1]).glob("gtsrb_stn/*")
    assert record.read(folder / "record.json")["synthetic"]
    assert {path.suffix for path in folder.iterdir()} >= {".ipynb", ".html", ".pt"}
    assert not list(place.rglob("__pycache__")) and not (place / "outputs").exists()


def test_on_a_read_only_checkout_and_home_without_network_in_another_locale(checkout, tmp_path):
    """Paths of spaces and other letters, which the locale (ASCII) does not know; no HOME, and nothing but a PATH."""
    words = ["run", "gtsrb_stn:lenet", "--set", "epochs=1", "--output", str(tmp_path / "Aus gabe ü")]
    ran = subprocess.run([*isolated("--map-root-user", "--net", "--mount"), sys.executable, "-c", ALOOF, str(checkout),
                          str(Path.home()), *words], capture_output=True, text=True, encoding="utf-8", timeout=600)
    whole(checkout, words, ran)


@pytest.mark.long
def test_as_a_user_whom_the_system_does_not_know(checkout, tmp_path):
    """As in many containers: a number without a name, and so without a home."""
    words = ["run", "gtsrb_stn:lenet", "--set", "epochs=1", "--output", str(tmp_path / "out")]
    alone = {"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout), "PYTHONDONTWRITEBYTECODE": "1"}
    ran = subprocess.run([*isolated("--map-user=12345", "--map-group=12345"), sys.executable, "-m", "course_utils",
                          *words], cwd=checkout, env=alone, capture_output=True, text=True, timeout=600)
    whole(checkout, words, ran)


TINY = """from torch import nn


class Net(nn.Sequential):
    def __init__(self, classes):
        super().__init__(nn.Conv2d(3, 4, 4, 4), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU(), nn.Flatten(),
                         nn.Linear(4 * 8 * 8, classes))
"""


@pytest.mark.long
def test_two_hundred_runs_in_one_batch_leave_memory_and_files_flat(tmp_path):
    """Real smoke runs of a small network; the runner is looked at every second, from the tenth run on."""
    (tmp_path / "tiny.py").write_text(TINY)
    network = f"{tmp_path / 'tiny.py'}:Net"
    runs = [load_experiment("cifar10_custom_resnet", None, "smoke", model=network, seed=seed, epochs=2) for seed in range(200)]
    jobs, seen, process = batch.plan(runs, {"EPOCHS": 2}, tmp_path / "out"), [], psutil.Process()

    def look():
        if sum(job.status().state == "done" for job in jobs[:20]) >= 10:
            seen.append((process.memory_info().rss / 1e6, process.num_fds(), process.num_threads()))

    found = batch.Batch(jobs, [{"OMP_NUM_THREADS": "1"}] * 2).run(look)
    assert {one.state for one in found} == {"done"}
    memory, files, threads = (np.array(column) for column in zip(*seen))
    tenth = len(seen) // 10
    print(f"MB {memory[:tenth].mean():.0f} -> {memory[-tenth:].mean():.0f}, files {files.min()} to {files.max()}, "
          f"threads {threads.min()} to {threads.max()}, {len(seen)} looks")
    assert memory[-tenth:].mean() - memory[:tenth].mean() < 20
    assert files[-tenth:].max() <= files[:tenth].max() + 2 and threads[-tenth:].max() <= threads[:tenth].max() + 1
