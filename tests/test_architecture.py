"""The layout in docs/layout.md: one-way imports by package, one definition of each name, small files and functions."""
import ast
import re

import pytest

from course_utils.utils import REPO

PACKAGE = REPO / "course_utils"
LOWER = {  # what each package may import, besides itself
    "errors": set(), "utils": set(),
    "config": {"utils", "errors"}, "variants": {"config", "errors"},
    "plots": set(), "colab": set(),
    "models": {"config", "errors"},
    "augment": {"config", "errors"},
    "data": {"augment", "config", "variants", "utils", "errors"},
    "analysis": {"models", "config", "variants", "plots", "utils", "errors"},
    "evaluation": {"analysis", "models", "data", "config", "errors"},
    "training": {"evaluation", "models", "data", "config", "utils", "errors"},
    "reporting": {"training", "evaluation", "analysis", "data", "augment", "models", "config", "variants", "plots",
                  "utils", "errors"},
    "runner": {"reporting", "training", "analysis", "data", "augment", "models", "config", "variants", "utils",
               "errors"},
    "classroom": {"reporting", "analysis", "data", "augment", "models", "config", "variants", "plots", "utils",
                  "errors"},
    "__main__": {"runner", "classroom", "reporting", "analysis", "data", "models", "config", "variants", "plots",
                 "utils", "errors"},
}
FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
LARGEST_FILE, LONGEST_FUNCTION = 300, 50  # lines
PACKAGE_GOAL, NOTEBOOK_GOAL = 5_000, 2_800  # lines, printed, not enforced
USED_BY_NOTEBOOKS = ("config", "variants", "errors", "augment", "models", "training", "evaluation",
                     "plots", "data/datasets", "data/info", "data/splits", "data/loader", "data/__init__")


def package_of(path):
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_packages(path):
    """The sub-packages that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("course_utils"):
            inside = node.module.removeprefix("course_utils").strip(".")
            found |= {inside.split(".")[0]} if inside else {alias.name for alias in node.names}
    return found


def module_name(path):
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_imports_run_one_way(path):
    package = package_of(path)
    assert imported_packages(path) <= LOWER[package] | {package}


def test_training_knows_neither_the_runner_nor_receptive_fields():
    for path in (PACKAGE / "training").glob("*.py"):
        text = path.read_text()
        assert "course_utils.runner" not in text and "receptive_field" not in text


@pytest.mark.parametrize("path", [*FILES, *sorted((REPO / "tests").rglob("*.py"))], ids=lambda path: path.stem)
def test_no_star_imports(path):
    assert not re.search(r"^\s*from \S+ import \*", path.read_text(), re.MULTILINE)


def test_each_name_is_defined_once():
    places = {}
    for path in FILES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(module_name(path))
    repeated = {name: where for name, where in places.items() if len(where) > 1}
    assert repeated == {}


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_and_functions_are_small_and_public_ones_documented(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= LARGEST_FILE
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions if node.end_lineno - node.lineno >= LONGEST_FUNCTION] == []
    public = [node for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name[0] != "_"]
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_report_of_sizes(capsys):
    """Prints the sizes beside their goals: a report, not a law."""
    sizes = {module_name(path): len(path.read_text().splitlines()) for path in FILES}
    core = sum(size for name, size in sizes.items()
               if any(name.removesuffix(".py") == part or name.startswith(f"{part}/") for part in USED_BY_NOTEBOOKS))
    with capsys.disabled():
        print(f"\ncourse_utils: {sum(sizes.values()):,} lines (goal {PACKAGE_GOAL:,}), of which notebooks use {core:,} "
              f"(goal {NOTEBOOK_GOAL:,}); largest file: {max(sizes.values())}")
    assert core < sum(sizes.values())
