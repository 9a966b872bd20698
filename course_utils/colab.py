"""A notebook opened in Colab: installing what is missing there, without touching Colab's torch.

To keep data and runs between sessions, mount a Drive and name folders there: ``DATA_DIR`` and ``OUTPUT_DIR`` in the
notebook. Checkpoints are then written to the Drive, and the next session resumes from the last one.
"""
import subprocess
import sys
from importlib import metadata

from course_utils.errors import CourseError
from course_utils.utils import REPO

NOT_IN_NOTEBOOKS = ("jupyter", "papermill", "nbval", "hypothesis", "pytest", "ruff")  # an open notebook needs none


def set_up() -> None:
    """Install the requirements that this machine lacks, never torch. Raises ``CourseError`` when torch is too old."""
    missing = missing_requirements()
    if any(requirement.startswith("torch>") for requirement in missing):
        raise CourseError(f"This course needs {', '.join(missing)}; it never replaces the installed torch.")
    if missing:
        installed = f"torch=={metadata.version('torch')}"  # pip then fails rather than replace it
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", *missing, installed], check=True)
        print(f"installed {', '.join(missing)}")
    print(f"PROFILE = \"full\" needs the real data, once:  !cd {REPO} && python -m course_utils data NAME")


def missing_requirements() -> list[str]:
    """The lines of ``requirements.txt`` that notebooks need and this machine does not satisfy."""
    from packaging.requirements import Requirement

    missing = []
    for line in (REPO / "requirements.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text or text.startswith("-") or Requirement(text).name in NOT_IN_NOTEBOOKS:
            continue
        try:
            version = metadata.version(Requirement(text).name)
            satisfied = Requirement(text).specifier.contains(version, prereleases=True)
        except metadata.PackageNotFoundError:
            satisfied = False
        if not satisfied:
            missing.append(text)
    return missing
