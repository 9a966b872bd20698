"""The student edition of a notebook: solutions between nbgrader's markers are cut to a prompt, outputs are cleared."""
import re
from pathlib import Path

import nbformat
import numpy as np

from course_utils.classroom.grade import hidden_images
from course_utils.data.datasets import open_dataset
from course_utils.data.prepare import write_prepared
from course_utils.errors import CourseError
from course_utils.utils import REPO
from course_utils.variants import read_assignment

SOLUTION = re.compile(r"^( *)### BEGIN SOLUTION\n.*?^ *### END SOLUTION *$", re.DOTALL | re.MULTILINE)
STUB = r'''\1# Your code here
\1raise NotImplementedError("Write this part: the text above says what it does, the cell below checks it.")'''


def make_handout(assignment: str, out: Path) -> Path:
    """Write the student edition of an assignment's notebook to ``out``; return its path. Raises ``CourseError`` for a
    notebook without solutions and for a file that exists.
    """
    name = f"{read_assignment(assignment)['notebook']}.ipynb"
    notebook, path = nbformat.read(REPO / "notebooks" / name, 4), out / name
    cut = 0
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.source, count = SOLUTION.subn(STUB, cell.source)
            cut, cell.outputs, cell.execution_count = cut + count, [], None
            cell.metadata.pop("execution", None)
    if not cut:
        raise CourseError(f"{name} has no solution between ### BEGIN SOLUTION and ### END SOLUTION.")
    if path.exists():
        raise CourseError(f"{path} exists already: a student's work may be in it. Name another --out.")
    out.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path


def write_student_data(name: str, out: Path, key: bytes, root: Path | None = None) -> Path:
    """Write the prepared data set ``name`` without the test images that ``key`` hides; return its folder."""
    data = open_dataset(name, root)
    hidden = hidden_images(data.test_labels, data.test_images, key)
    arrays = {"train_images": data.train_images, "train_labels": data.train_labels}
    arrays |= {} if data.train_tracks is None else {"train_tracks": data.train_tracks}
    for part in ("test_images", "test_labels"):
        arrays[part] = np.delete(getattr(data, part), hidden, axis=0)
    write_prepared(out / name, arrays, data.classes, f"a part of {data.title}: half of its test images are hidden",
                   mean=data.mean, std=data.std)
    return out / name
