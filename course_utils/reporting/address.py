"""Where the repository lies on GitHub: said in ``pyproject.toml``, and from there in badges and bootstrap cells."""
from __future__ import annotations

import re
import tomllib
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.utils import REPO, write_whole

GITHUB = "https://github.com/"
COLAB = "https://colab.research.google.com/"


def current() -> str:
    """``OWNER/NAME`` of the repository; these very words as long as nobody has set it."""
    table = tomllib.loads((REPO / "pyproject.toml").read_text(encoding="utf-8"))
    return table["project"]["urls"]["repository"].removeprefix(GITHUB)


def badge(notebook: str) -> str:
    """Markdown: a badge that opens the notebook in Colab."""
    return (f"[![Open in Colab]({COLAB}assets/colab-badge.svg)]"
            f"({COLAB}github/{current()}/blob/main/notebooks/{notebook}.ipynb)")


def change(new: str) -> list[Path]:
    """Put ``new`` (``OWNER/NAME``) in place of the present address in ``pyproject.toml`` and every notebook, executed
    ones too; return the files that changed. Raises ``CourseError`` when it cannot be an address.
    """
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", new) or new.endswith(".git"):
        raise CourseError(f"{new!r} is no address of a repository: it must be OWNER/NAME, as in github.com/OWNER/NAME.")
    old = re.escape(current())
    changed = []
    for path in (REPO / "pyproject.toml", *REPO.glob("notebooks/*.ipynb"), *REPO.glob("assignments/*/runs/*.ipynb")):
        before = path.read_text(encoding="utf-8")
        after = re.sub(rf"({re.escape(GITHUB)}|{re.escape(COLAB)}github/){old}(?![\w-])", rf"\g<1>{new}", before)
        if after != before:
            write_whole(path, after)
            changed.append(path)
    return changed
