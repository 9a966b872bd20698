"""Notebooks that begin at once: forked from a process that has imported already what all of them need.

A server (of ``multiprocessing``) imports ``PRELOADED`` and forks a clean process for each notebook, which is papermill,
and which has forked the notebook's kernel before it did anything else. Elsewhere than on Linux both begin from nothing.
"""
from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NoReturn

START_SECONDS = 120  # that a kernel may take to begin
# None is of the course, whose code each notebook reads as it is then, since its record will name a commit.
PRELOADED = ("papermill", "ipykernel.kernelapp", "matplotlib_inline.backend_inline", "matplotlib.figure", "PIL.Image",
             "accelerate", "torchinfo", "torch._dynamo")  # torch's optimisers import the last


def begin(source: Path, output: Path, parameters: Mapping[str, Any], folder: Path, cell_seconds: float, log: Path,
          environment: Mapping[str, str]) -> BaseProcess:
    """Begin to execute notebook ``source`` into ``output``, with ``folder`` as the working folder; all it says goes to
    ``log``. Returns the process, whose exit code is 0 when every cell ran. ``environment`` is laid over this one's.
    """
    context = multiprocessing.get_context("forkserver" if _can_fork() else "spawn")
    work = (source, output, dict(parameters), folder, round(cell_seconds), log, {**os.environ, **environment})
    process = context.Process(target=_execute, args=work)
    log.touch()
    warm_up()
    process.start()
    return process


def warm_up() -> None:
    """Let the server begin to import, if it does not run yet; it ends with this process."""
    if _can_fork():
        from multiprocessing import forkserver

        multiprocessing.set_forkserver_preload(list(PRELOADED))
        forkserver.ensure_running()


def _can_fork() -> bool:
    return sys.platform == "linux"  # on macOS, libraries that torch uses do not survive a fork


def _execute(source: Path, output: Path, parameters: dict[str, Any], folder: Path, cell_seconds: int, log: Path,
             environment: dict[str, str]) -> None:
    """In a process of its own: whatever it changes here is seen by one notebook alone."""
    sys.stdout = sys.stderr = log.open("a", buffering=1)
    with open(os.devnull) as nothing:
        for file, number in ((nothing, 0), (sys.stdout, 1), (sys.stdout, 2)):
            os.dup2(file.fileno(), number)
    os.environ.clear()  # the server's may be older
    os.environ.update(environment)
    if _can_fork():
        from jupyter_client.provisioning import local_provisioner

        os.setsid()
        local_provisioner.launch_kernel = _Kernel()
    from papermill import execute_notebook

    execute_notebook(str(source), str(output), parameters, cwd=str(folder), kernel_name="python3", progress_bar=False,
                     start_timeout=START_SECONDS, execution_timeout=cell_seconds)


class _Kernel:
    """A process that waits to become a kernel, and then looks like a ``subprocess.Popen`` of one."""

    stdin = stdout = stderr = None

    def __init__(self) -> None:
        self.returncode: int | None = None
        end, self.pipe = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self.pipe)
            _become_kernel(end)
        os.close(end)

    def __call__(self, command: list[str], *, cwd: str | None = None, env: Mapping[str, str] | None = None,
                 **_: Any) -> _Kernel:
        """Called as ``jupyter_client.launcher.launch_kernel``."""
        order = {"command": command[1:], "folder": cwd or os.getcwd(), "environment": dict(env or os.environ)}
        with open(self.pipe, "w") as pipe:
            json.dump(order, pipe)
        return self

    def poll(self) -> int | None:
        if self.returncode is None:
            return self._ended(os.WNOHANG)
        return self.returncode

    def wait(self) -> int | None:
        return self._ended(0) if self.returncode is None else self.returncode

    def _ended(self, options: int) -> int | None:
        number, status = os.waitpid(self.pid, options)
        self.returncode = os.waitstatus_to_exitcode(status) if number else None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


def _become_kernel(end: int) -> NoReturn:
    """What ``python -m ipykernel_launcher`` does, as soon as the order comes; it ends when papermill does."""
    code, papermill = 1, os.getppid()
    try:
        os.setsid()
        with open(end) as pipe:
            order = json.loads(pipe.read() or "null")
        if order is not None:  # else papermill ended before it needed a kernel
            os.environ.clear()
            os.environ.update(order["environment"])
            os.chdir(order["folder"])
            _as_if_new(order["command"])
            from ipykernel.kernelapp import IPKernelApp

            options = order["command"][order["command"].index("-f"):]
            IPKernelApp.launch_instance(argv=options, parent_handle=papermill)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _as_if_new(command: list[str]) -> None:
    """Undo what matters of all that a fork inherits and a new process would not have."""
    import numpy as np
    import torch

    sys.argv = command[1:]
    multiprocessing.set_start_method(None, force=True)  # loaders' workers: the system's own way again
    np.random.seed()
    if threads := os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]:  # torch read it when it was imported
        torch.set_num_threads(int(threads))
