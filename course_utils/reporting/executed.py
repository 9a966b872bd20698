"""Executed notebooks: without local paths, and one fresh run from the top."""
import json
import re
from pathlib import Path

from course_utils.errors import CourseError

PATH_PARAMETERS = ("DATA_DIR", "OUTPUT_DIR", "MODEL")  # parameters of the notebooks that may name a folder


def strip_paths(notebook: Path) -> str:
    """The text of an executed notebook without the absolute paths that papermill stored in it."""
    table = json.loads(notebook.read_text(encoding="utf-8"))
    stored = table["metadata"].get("papermill", {})
    stored |= {key: Path(stored[key]).name for key in ("input_path", "output_path") if key in stored}
    assigned = re.compile(rf'^((?:{"|".join(PATH_PARAMETERS)}) = )"(?:/|[A-Za-z]:).*"')
    for cell in table["cells"]:
        if "injected-parameters" in cell["metadata"].get("tags", []):
            cell["source"] = [assigned.sub(r'\1"..."', line) for line in cell["source"]]
    for name in PATH_PARAMETERS:
        if re.match("/|[A-Za-z]:", str(stored.get("parameters", {}).get(name))):
            stored["parameters"][name] = "..."
    return json.dumps(table, indent=1, ensure_ascii=False) + "\n"


def move_links(text: str) -> str:
    """``text`` of a notebook in ``notebooks/`` with its links to files as ``assignments/<name>/runs/`` needs them."""
    return re.sub(r"\]\((?=\d\d_\w+\.ipynb\))", "](../../../notebooks/", text.replace("](../", "](../../../"))


def check_fresh_run(notebook: Path) -> None:
    """Raise ``CourseError`` for a notebook that is not one complete run from its top, without an error."""
    try:
        table = json.loads(notebook.read_text(encoding="utf-8"))
        cells = [cell for cell in table["cells"] if cell["cell_type"] == "code"]
        counts = [cell["execution_count"] for cell in cells]
        kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{notebook} is not a notebook: {error!r}.") from error
    if counts != list(range(1, len(cells) + 1)) or "error" in kinds:
        raise CourseError(f"{notebook} is not one fresh run from top to bottom: its cells ran as {counts}.")
