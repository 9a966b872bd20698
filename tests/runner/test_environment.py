"""Unusual places to run in: paths, locales, home folders and networks that are not as at home."""
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from course_utils.reporting.record import read_record
from course_utils.utils import REPO

pytestmark = pytest.mark.slow
READ_ONLY = """
import fcntl, os, socket, struct, subprocess, sys
fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sh", b"lo", 0x41))  # SIOCSIFFLAGS: the loopback device, no other
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


def test_read_only_checkout_and_home_without_network_and_utf8_locale(checkout, tmp_path):
    """And without HOME: nothing but a PATH."""
    out = tmp_path / "Aus gabe ü"
    command = [*isolated("--map-root-user", "--net", "--mount"), sys.executable, "-c", READ_ONLY, str(checkout),
               str(Path.home()), "run", "gtsrb_stn:lenet", "--set", "epochs=1", "--output", str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    folder, = out.glob("gtsrb_stn/*")
    assert read_record(folder / "record.json")["synthetic"]
    assert {path.suffix for path in folder.iterdir()} >= {".ipynb", ".pt"}
    assert not list(checkout.rglob("__pycache__")) and not (checkout / "outputs").exists()
