"""Asks the nursery for trainings."""
from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from pathlib import Path

import psutil
from faults.nursery import home_of

from course_utils.training import checkpoint

PATIENCE = 120  # seconds, far more than anything here takes


class Nursery:
    """See ``nursery.py``."""

    def __init__(self) -> None:
        command = [sys.executable, Path(__file__).with_name("nursery.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=os.environ | {"OMP_NUM_THREADS": "1"})

    def ask(self, **order: object) -> int:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE)
        if not ready:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            raise AssertionError(f"{order}: no answer for {PATIENCE} s")
        return int(self.process.stdout.readline())

    def begin(self, folder: Path, **settings: object) -> int:
        """The number of the process that trains in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        return self.ask(folder=str(folder), **settings)

    def end_of(self, process: int) -> int:
        """Its exit code, or minus the signal that ended it."""
        return self.ask(wait=process)

    def workers_of(self, process: int, epoch: int, folder: Path) -> list[psutil.Process]:
        """The loader's workers of a training, as soon as there are any in ``epoch`` (for a harm that makes it slow)."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            found = psutil.Process(process).children(recursive=True)
            if found and len(checkpoint.list_checkpoints(home_of(folder))) == epoch - 1:
                time.sleep(0.3)  # a Ctrl-C in the instant of a fork is lost, in any Python program
                return found
            time.sleep(0.02)
        raise AssertionError((folder / "log").read_text())

    def whole(self, folder: Path, **settings: object) -> int:
        return self.end_of(self.begin(folder, **settings))
