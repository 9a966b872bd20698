"""A notebook opened in Colab: installing what is missing, and keeping data and runs on a mounted Drive.

Work is done on the local disk, since a mounted Drive may drop; files are copied to and from it, each read back.
"""
from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from course_utils.data.prepare import data_root
from course_utils.errors import CourseError
from course_utils.utils import REPO

DRIVE = Path("/content/drive/MyDrive")  # where Colab mounts it
HEADLESS = ("jupyter", "papermill", "rich", "nbval", "hypothesis", "pytest", "ruff")  # an open notebook needs none
LAST = ("meta.json", "record.json")  # what says that the files beside it are whole


def set_up() -> None:
    """Install what notebooks need and the machine lacks, never torch; fetch what an earlier session left on the Drive.

    Raises ``CourseError`` when torch is missing or too old.
    """
    lacking = missing()
    if any(need.startswith("torch>") for need in lacking):
        raise CourseError(f"This course needs {', '.join(lacking)}; it never replaces the torch of the machine.")
    if lacking:
        kept = f"torch=={metadata.version('torch')}"  # named, so that pip would rather fail than exchange it
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *lacking, kept], check=True)
        print(f"installed {', '.join(lacking)}")
    if DRIVE.is_dir():
        for name, home in _places():
            _tell(copy_checked(DRIVE / "course" / name, home), f"from the Drive's course/{name}")
    print(f"For PROFILE = \"full\" the real data is needed, once:  !cd {REPO} && python -m course_utils data NAME")


def keep() -> None:
    """Copy prepared data and all runs to ``course`` on the Drive, if one is mounted; elsewhere do nothing.

    Checkpoints stay behind: they are large, and of no use when a run is done.
    """
    if DRIVE.is_dir():
        for name, home in _places():
            _tell(copy_checked(home, DRIVE / "course" / name, without=".pt"), f"to the Drive's course/{name}")


def _places() -> tuple[tuple[str, Path], ...]:
    return ("data", data_root()), ("outputs", REPO / "outputs")


def _tell(copied: int, where: str) -> None:
    if copied:
        print(f"{copied} files copied and checked, {where}")


def missing() -> list[str]:
    """The lines of ``requirements.txt`` that notebooks need and this machine does not satisfy."""
    from packaging.requirements import Requirement

    found = []
    for line in (REPO / "requirements.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-") or Requirement(text).name in HEADLESS:
            continue
        try:
            there = Requirement(text).specifier.contains(metadata.version(Requirement(text).name), prereleases=True)
        except metadata.PackageNotFoundError:
            there = False
        if not there:
            found.append(text)
    return found


def copy_checked(source: Path, target: Path, without: str | None = None) -> int:
    """Copy the files under ``source`` that ``target`` lacks or has older; return how many. ``without``: a suffix.

    Each is written beside its place, read back and compared by SHA-256 before it gets its name. Raises
    ``CourseError`` when a copy is not what it was made from.
    """
    found = (path for path in source.rglob("*")
             if path.is_file() and not path.name.startswith(".") and path.suffix != without)
    files = sorted(found, key=lambda path: path.name in LAST)
    copied = 0
    for path in files:
        place = target / path.relative_to(source)
        if place.exists() and not _newer(path, place):
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f".{place.name}.partial-{os.getpid()}")
        try:
            shutil.copy2(path, partial)
            if _sha256(partial) != _sha256(path):
                raise CourseError(f"The copy of {path} to {place} came out different: is the Drive still mounted?")
            os.replace(partial, place)
        finally:
            partial.unlink(missing_ok=True)
        copied += 1
    return copied


def _newer(one: Path, other: Path) -> bool:
    """By its time, which a Drive rounds; within that, of another size."""
    mine, theirs = one.stat(), other.stat()
    later = mine.st_mtime - theirs.st_mtime
    return later > 2 or (abs(later) <= 2 and mine.st_size != theirs.st_size)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
