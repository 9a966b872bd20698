"""The layout that CONTRIBUTING.md describes: one-way imports, each thing defined once, notebooks that only call."""
import ast
import json
import re
from pathlib import Path

import pytest

from course_utils.variants import list_assignments, read_assignment
from course_utils.utils import REPO

PACKAGE = REPO / "course_utils"
LEVELS = [  # a module may import from the levels below its own alone
    {"__main__"}, {"live"}, {"batch", "report", "rubric", "compare", "estimate"}, {"headless", "tables"},
    {"record", "plots"}, {"train", "range_test"}, {"step"},
    {"evaluate", "checkpoint", "optim", "hardware"},
    {"loader"}, {"augment", "datasets", "colab"}, {"acquire", "synthetic", "transforms"},
    {"transforms.geometry", "transforms.pixels"},
    {"sources"}, {"sources.cifar10", "sources.gtsrb", "sources.stl10"}, {"sources.base"}, {"download", "signs"},
    {"experiment"}, {"own"}, {"status", "address"}, {"processes"}, {"errors", "files", "warm"},
]
TORCH_ALONE = {"anatomy", "receptive", "follow", "models", "models.blocks", "models.cifar10", "models.gtsrb",
               "models.stl10"}
MODULES = {".".join(p.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): p
           for p in PACKAGE.rglob("*.py") if p != PACKAGE / "__init__.py"}
NOTEBOOKS = sorted((REPO / "notebooks").glob("*.ipynb"))


def imported(tree):
    """Modules of the package that the code imports, at whatever depth."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_utils"):
            inside = node.module.removeprefix("course_utils").strip(".")
            names |= {inside} if inside else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.removeprefix("course_utils.") for a in node.names if a.name.startswith("course_utils.")}
    return names


def test_every_module_has_its_level():
    assert set(MODULES) == set().union(*LEVELS) | TORCH_ALONE


@pytest.mark.parametrize("module", sorted(set().union(*LEVELS)))
def test_imports_run_downwards(module):
    level = next(k for k, names in enumerate(LEVELS) if module in names)
    below = set().union(*LEVELS[level + 1:]) | TORCH_ALONE
    assert imported(ast.parse(MODULES[module].read_text())) <= below


@pytest.mark.parametrize("module", sorted(TORCH_ALONE))
def test_models_and_anatomy_need_torch_alone(module):
    tree = ast.parse(MODULES[module].read_text())
    assert imported(tree) <= TORCH_ALONE | {"errors", "own"}
    nodes = list(ast.walk(tree))
    names = [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)]
    names += [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    legal = {"__future__", "collections", "contextlib", "course_utils", "dataclasses", "inspect", "torch", "torchinfo",
             "typing"}
    assert {name.split(".")[0] for name in names} <= legal


@pytest.mark.parametrize("path", [*MODULES.values(), *(REPO / "tests").glob("*.py")], ids=lambda p: p.stem)
def test_no_star_imports(path):
    assert not re.search(r"^\s*from \S+ import \*", path.read_text(), re.MULTILINE)


def test_nothing_is_defined_twice():
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                places.setdefault(node.name, []).append(module)
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_short_and_described(module):
    tree = ast.parse(MODULES[module].read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.end_lineno - node.lineno > 50] == []
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def code_cells(path):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]


def assert_no_paths(path):
    text = path.read_text()
    for folder in (str(REPO), f"{Path.home()}/", "/home/", "/tmp/", "/Users/", "/content/drive"):
        assert folder not in text, f"{folder} in {path}"


@pytest.mark.parametrize("path", sorted((REPO / "assignments").glob("*/runs/*.ipynb")), ids=lambda p: p.stem)
def test_published_runs_are_whole_and_name_no_folder(path):
    cells = code_cells(path)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert not [o for cell in cells for o in cell["outputs"] if o["output_type"] == "error"]
    assert (path.parents[1] / "results" / f"{path.stem}.json").exists()
    assert_no_paths(path)


def test_every_assignment_has_its_notebook():
    assert {p.stem for p in NOTEBOOKS} == {read_assignment(name)["notebook"] for name in list_assignments()}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
class TestNotebook:
    def test_it_defines_nothing(self, path):
        for cell in code_cells(path):
            plain = "".join(line for line in cell["source"] if not line.lstrip().startswith(("!", "%")))
            plain = re.sub(r'(if "google\.colab".*\n)', r"\1    pass\n", plain)
            transform_ids = [type(node) for node in ast.walk(ast.parse(plain))]
            assert not {ast.FunctionDef, ast.ClassDef, ast.Lambda} & set(transform_ids)
            assert "import *" not in plain

    def test_it_is_small(self, path):
        cells = json.loads(path.read_text())["cells"]
        words = sum(len("".join(c["source"]).split()) for c in cells if c["cell_type"] == "markdown")
        lines = sum(len("".join(c["source"]).splitlines()) for c in code_cells(path))
        assert len(cells) <= 30 and lines <= 150 and 600 <= words <= 1500

    def test_it_is_one_fresh_clean_run(self, path):
        cells = code_cells(path)
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        outputs = [output for cell in cells for output in cell["outputs"]]
        assert not [o for o in outputs if o["output_type"] == "error" or o.get("name") == "stderr"]
        assert_no_paths(path)

    def test_its_parameters_are_tagged_and_explained(self, path):
        tagged = [cell for cell in code_cells(path) if "parameters" in cell["metadata"].get("tags", [])]
        assert len(tagged) == 1
        for line in "".join(tagged[0]["source"]).splitlines():
            assert re.fullmatch(r"[A-Z_]+: (str|int|float) = .+  # .+", line), line

    def test_outputs_are_compared(self, path):
        checked = [cell for cell in code_cells(path) if "nbval-check-output" in cell["metadata"].get("tags", [])]
        assert len(checked) >= 3
