"""The table in this folder's README: the tests hold what a user sees against the words that stand there."""
from __future__ import annotations

import re
from functools import cache
from pathlib import Path


@cache
def rows() -> dict[int, tuple[str, ...]]:
    """Number -> what happens, what the user sees, what is kept, the test's file."""
    text = Path(__file__).with_name("README.md").read_text(encoding="utf-8")
    cells = [tuple(cell.strip() for cell in line.strip("|").split(" | ")) for line in text.splitlines()
             if re.match(r"\| \d+ \|", line)]
    return {int(number): tuple(rest) for number, *rest in cells}


def said(number: int, text: str) -> bool:
    """Whether ``text`` holds every message that row ``number`` quotes; three dots there stand for anything."""
    quoted = re.findall("`([^`]+)`", rows()[number][1])
    assert quoted, f"row {number} quotes nothing"
    patterns = [".*".join(map(re.escape, message.split("..."))) for message in quoted]
    return all(re.search(pattern, text, re.DOTALL) for pattern in patterns)
