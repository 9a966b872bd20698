"""Asks the nursery for trainings."""
from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path


class Nursery:
    """See ``nursery.py``."""

    def __init__(self) -> None:
        command = [sys.executable, Path(__file__).with_name("nursery.py")]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=os.environ | {"OMP_NUM_THREADS": "1"})

    def ask(self, **order: object) -> int:
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def begin(self, folder: Path, **settings: object) -> int:
        """The number of the process that trains in ``folder``."""
        folder.mkdir(parents=True, exist_ok=True)
        return self.ask(folder=str(folder), **settings)

    def end_of(self, process: int) -> int:
        """Its exit code, or minus the signal that ended it."""
        return self.ask(wait=process)

    def whole(self, folder: Path, **settings: object) -> int:
        return self.end_of(self.begin(folder, **settings))
