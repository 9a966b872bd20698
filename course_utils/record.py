"""The record of a run: one JSON file that holds whatever a table or a text says about it."""
from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from typing import Any

import numpy as np
import torch

from course_utils.experiment import REPO

VERSIONS = ("torch", "accelerate", "numpy", "albumentations")


def origin() -> dict[str, Any]:
    """Commit, machine and versions: where a run takes place. Holds no names of hosts, users or folders."""
    return {"commit": commit(), "machine": machine(),
            "versions": {"python": platform.python_version(), **{name: metadata.version(name) for name in VERSIONS}}}


def commit() -> str | None:
    """The repository's commit, with "+" where tracked files differ from it; ``None`` outside a git checkout."""
    def git(*arguments: str) -> str:
        return subprocess.run(["git", "-C", str(REPO), *arguments], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def machine() -> str:
    """The processor, and the GPU if there is one, in words."""
    cpu = torch.cpu.get_capabilities().get("cpu_name") or platform.machine()
    words = f"{cpu}, {len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()} cores"
    return f"{torch.cuda.get_device_name()}; {words}" if torch.cuda.is_available() else words
