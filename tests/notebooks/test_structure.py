"""The notebooks define nothing, are small, and are committed as one fresh run; published runs likewise."""
import ast
import json
import re
from pathlib import Path

import pytest
from notebook_files import NOTEBOOKS, PUBLISHED, assert_no_paths, code_cells

from course_utils.utils import REPO
from course_utils.variants import list_assignments, read_assignment


def test_every_assignment_has_its_notebook():
    assert {path.stem for path in NOTEBOOKS} == {read_assignment(name)["notebook"] for name in list_assignments()}


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_runs_are_complete_and_contain_no_local_path(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
    assert (path.parents[1] / "results" / f"{path.stem}.json").exists()
    assert_no_paths(path)


@pytest.mark.parametrize("path", [*NOTEBOOKS, *PUBLISHED], ids=lambda path: path.stem)
def test_links_to_files_lead_somewhere(path):
    cells = json.loads(path.read_text())["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    links = [link for text in texts for link in re.findall(r"\]\(([\w./-]+\.(?:ipynb|md))[#)]", text)]
    assert [link for link in links if not (path.parent / link).is_file()] == []


@pytest.mark.parametrize("name", list_assignments())
def test_exercises_have_solutions_committed_as_one_fresh_run(name):
    path = REPO / "assignments" / name / "solutions.ipynb"
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
    assert_no_paths(path)
    notebook = (REPO / "notebooks" / f"{read_assignment(name)['notebook']}.ipynb").read_text()
    assert f"../assignments/{name}/solutions.ipynb" in notebook


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestNotebook:
    def test_it_defines_nothing_but_its_exercise(self, path: Path):
        cells = code_cells(path)
        exercises = [cell for cell in cells if cell["metadata"].get("nbgrader", {}).get("solution")]
        assert len(exercises) == 1 and "### BEGIN SOLUTION" in "".join(exercises[0]["source"])
        for cell in (cell for cell in cells if cell not in exercises):
            plain = "".join(line for line in cell["source"] if not line.lstrip().startswith(("!", "%")))
            kinds = [type(node) for node in ast.walk(ast.parse(plain))]
            assert not {ast.FunctionDef, ast.ClassDef, ast.Lambda} & set(kinds)

    def test_it_is_small(self, path: Path):
        cells = json.loads(path.read_text())["cells"]
        words = sum(len("".join(c["source"]).split()) for c in cells if c["cell_type"] == "markdown")
        lines = sum(len("".join(c["source"]).splitlines()) for c in code_cells(path))
        assert len(cells) <= 30 and lines <= 170 and 600 <= words <= 1500

    def test_it_is_one_fresh_run_without_errors(self, path: Path):
        cells = code_cells(path)
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
        assert_no_paths(path)

    def test_its_parameters_are_tagged_typed_and_explained(self, path: Path):
        tagged = [cell for cell in code_cells(path) if "parameters" in cell["metadata"].get("tags", [])]
        assert len(tagged) == 1
        lines = "".join(tagged[0]["source"]).splitlines()
        lines.remove("# Seldom needed:")
        for line in lines:
            assert re.fullmatch(r"[A-Z_]+: (str|int|float|dict) = .+  # .+", line), line

    def test_some_outputs_are_compared_by_nbval(self, path: Path):
        checked = [cell for cell in code_cells(path) if "nbval-check-output" in cell["metadata"].get("tags", [])]
        assert len(checked) >= 3

    def test_it_shows_the_training_loop_and_formulas(self, path: Path):
        assert "source_markdown(train_one_epoch" in path.read_text() and "$$" in path.read_text()

    def test_every_setting_has_an_effect(self, path: Path):
        assert re.search(r"predict\(model, \w+\.tta, precision, epoch\) for epoch", path.read_text())  # tta_views
