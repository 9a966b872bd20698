"""A notebook opened in Colab: installing what is missing there, without touching Colab's torch."""
import subprocess
import sys
from importlib import metadata
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent  # not utils.REPO: that module imports what is installed here
NOT_IN_NOTEBOOKS = ("-e", "jupyter", "papermill", "nbval", "hypothesis", "pytest", "ruff")


def set_up() -> None:
    """Install the requirements that this machine lacks. pip fails rather than replace the installed torch."""
    lines = [line.partition("#")[0].strip() for line in (HOME / "requirements.txt").read_text("utf-8").splitlines()]
    wanted = [line for line in lines if line and not line.startswith(NOT_IN_NOTEBOOKS)]
    installed = [f"{name}=={metadata.version(name)}" for name in ("torch", "torchvision")]
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", *wanted, *installed], check=True)
    print(f"PROFILE = \"full\" needs the real data, once:  !cd {HOME} && python -m course_utils data NAME")
