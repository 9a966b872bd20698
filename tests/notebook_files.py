"""The committed notebooks, for the tests that read them."""
import json
from pathlib import Path

from course_utils.utils import REPO

NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))
PUBLISHED = sorted((REPO / "assignments").glob("*/runs/*.ipynb"))


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def assert_no_paths(path):
    text = path.read_text()
    for folder in (str(REPO), f"{Path.home()}/", "/home/", "/tmp/", "/Users/", "/content/drive"):
        assert folder not in text, f"{folder} in {path}"
