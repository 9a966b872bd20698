"""Names of networks: one of ``models.MODELS``, or ``FILE.py:CLASS`` for a custom network."""
import hashlib
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.utils import REPO


def is_custom(model: str) -> bool:
    """Whether ``model`` names a network in a file (``FILE.py:CLASS``) and not one of ``models.MODELS``."""
    return ":" in model or model.endswith(".py")


def locate_model(model: str) -> tuple[Path, str]:
    """File and class of ``FILE.py:CLASS``. A relative FILE is searched here, in the repository and in its notebooks.

    Raises ``CourseError`` for another form and for a missing file.
    """
    file, _, attribute = model.rpartition(":")
    if not file.endswith(".py") or not attribute.isidentifier():
        raise CourseError(f"{model!r}: a custom network is named FILE.py:CLASS, such as my_net.py:Net.")
    places = [folder / Path(file).expanduser() for folder in (Path.cwd(), REPO, REPO / "notebooks")]
    for path in places:
        if path.is_file():
            return path.resolve(), attribute
    raise CourseError(f"{model}: there is no {' and no '.join(str(path) for path in dict.fromkeys(places))}.")


def display_name(model: str) -> str:
    """``model`` without folders, as records show it."""
    return Path(model).name if is_custom(model) else model


def file_hash(model: str) -> str:
    """SHA-256 of a custom network's file, by which a run detects that it was edited."""
    return hashlib.sha256(locate_model(model)[0].read_bytes()).hexdigest()
