"""Running code of other people: without network, with nothing to read but what it needs, with limits."""
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from course_utils.errors import CourseError
from course_utils.utils import REPO

SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache")  # programs and libraries
SCRATCH_BYTES = 256_000_000  # of /tmp in the sandbox, which is in memory
RESULT_BYTES = 1_000_000_000  # of the result; VGG-16, the largest network of the course, has 540 MB
LOG_BYTES = 1_000_000
PROCESSES, THREADS = 64, 512
RESERVE = 1_000_000_000  # bytes of the machine's memory that must stay free


@dataclass(frozen=True)
class Limits:
    """Of one program in the sandbox."""

    seconds: float = 300
    memory: float = 4e9  # bytes, of all its processes together
    threads: int = 1


def run_sandboxed(module: str, arguments: Sequence[str], readable: Mapping[Path, str], result: Path,
                  limits: Limits) -> None:
    """Run ``python -m module arguments`` in a sandbox of bubblewrap; what it writes to ``/result`` goes to ``result``.

    It sees Python, this package and ``readable`` (file or folder -> its path in the sandbox), all read-only, an empty
    ``/tmp``, no other process, no network. It and all that it started end when this returns. Raises ``CourseError``
    with the last line of what it printed, or with the limit that it passed.
    """
    if not (shutil.which("bwrap") and shutil.which("prlimit")):
        raise CourseError("Grading runs other people's code in a sandbox, which needs Linux and bubblewrap "
                          "(apt install bubblewrap).")
    shown = [*SYSTEM, sys.base_prefix, sys.prefix, str(REPO / "course_utils"), str(REPO / "assignments")]
    environment = {"PATH": "/usr/bin:/bin", "HOME": "/tmp", "USER": "student", "LANG": "C.UTF-8",
                   "PYTHONPATH": str(REPO), "COURSE_DEVICE": "cpu", "OMP_NUM_THREADS": str(limits.threads),
                   "PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": "/tmp", "NO_ALBUMENTATIONS_UPDATE": "1"}
    result.touch()
    command = ["prlimit", f"--fsize={RESULT_BYTES}", "--core=0", "--nofile=1024",
               "bwrap", "--unshare-all", "--die-with-parent", "--new-session", "--cap-drop", "ALL", "--clearenv",
               "--proc", "/proc", "--dev", "/dev", "--remount-ro", "/dev",
               "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp", "--chdir", "/tmp",
               *(word for path in dict.fromkeys(shown) for word in ("--ro-bind-try", path, path)),
               *(word for path, place in readable.items() for word in ("--ro-bind", str(path), place)),
               "--bind", str(result), "/result",
               *(word for pair in environment.items() for word in ("--setenv", *pair)),
               "--remount-ro", "/", sys.executable, "-m", module, *arguments]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        try:
            reason = _watch(process, log.fileno(), limits)
        finally:
            process.kill()  # with it the first process of the sandbox dies, and the kernel kills all others there
            process.wait()
        size = os.fstat(log.fileno()).st_size
        log.seek(max(0, size - 2000))
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()] or ["no message"]
    if reason or process.returncode or not result.stat().st_size:
        raise CourseError(reason or f"it ended with exit code {process.returncode}: {lines[-1][:300]}")


def _watch(process: subprocess.Popen, log: int, limits: Limits) -> str:
    """Wait for ``process``; the reason why it must be killed before its end, or nothing."""
    deadline = time.monotonic() + limits.seconds
    while process.poll() is None:
        if time.monotonic() > deadline:
            return f"it took more than {limits.seconds:.0f} seconds"
        if os.fstat(log).st_size > LOG_BYTES:
            return "it printed more than a megabyte"
        used, count, threads = 0, 0, 0
        with contextlib.suppress(psutil.Error):  # it has ended
            for child in psutil.Process(process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    used, count, threads = used + child.memory_info().rss, count + 1, threads + child.num_threads()
        if count > PROCESSES or threads > THREADS:
            return f"it started more than {PROCESSES} processes or {THREADS} threads"
        if used > limits.memory or psutil.virtual_memory().available < RESERVE:  # files in memory are in no process
            return f"it used more than {limits.memory / 1e9:.1f} GB of memory, or nearly all that was left"
        time.sleep(0.05)
    return ""
