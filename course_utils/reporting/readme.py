"""READMEs: publishing a run, and writing the blocks between markers from the published records."""
import contextlib
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from course_utils import plots
from course_utils.config import ASSIGNMENTS
from course_utils.errors import CourseError
from course_utils.reporting import tables
from course_utils.reporting.executed import check_fresh_run, strip_paths
from course_utils.reporting.record import Record, changed_settings, read_record, variant_of
from course_utils.reporting.run_folder import run_name
from course_utils.utils import REPO, atomic_write
from course_utils.variants import list_assignments, read_assignment

MARKERS = "<!-- {name}: written by python -m course_utils report -->", "<!-- end of {name} -->"
BLOCKS = {"provenance": tables.provenance_table, "splits": tables.split_table,
          "versions": tables.versions_table}  # where an assignment's README has them
FIGURES = ("curves", "straightened", "transforms", "lr_finder", "range_test", "fixres", "resolution", "confusion",
           "mistakes", "grad_cam")  # of a run, in a README; range_test: the first edition's name
COLAB = "https://colab.research.google.com/"


def publish(folder: Path) -> str:
    """Make the run in ``folder`` a published result: copy its record and, of the first seed, its executed notebook and
    figures; return its name.

    Raises ``CourseError`` for a run on synthetic data, a record that contradicts itself, and a run with overrides other
    than seed, epochs and split: under the variant's name they would be misleading.
    """
    record = read_record(folder / "record.json")
    if record["synthetic"]:
        raise CourseError(f"{folder} is a run on synthetic data: not a result.")
    if changed := changed_settings(record):
        raise CourseError(f"{folder} {_not_its_variant(record, changed)} Define a variant of its own.")
    assignment, name = record["experiment"]["assignment"], run_name(variant_of(record))
    notebook = folder / f"{read_assignment(assignment)['notebook']}.ipynb"
    check_fresh_run(notebook)
    home, images = ASSIGNMENTS / assignment, REPO / "images" / assignment
    for target in (home / "results", home / "runs", images):
        target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "record.json", home / "results" / f"{name}.json")
    if name in _shown_runs(assignment):
        atomic_write(home / "runs" / f"{name}.ipynb", strip_paths(notebook))
        for figure in (folder / "figures" / f"{kind}.png" for kind in FIGURES):
            if figure.exists():
                shutil.copyfile(figure, images / f"{name}-{figure.name}")
    return name


def _shown_runs(assignment: str) -> set[str]:
    """Names of the runs whose notebook and figures are published: of each row of the table the first seed."""
    return {runs[0][0] for runs in tables.group_runs(assignment)}


def _not_its_variant(record: Record, changed: Sequence[str]) -> str:
    ran = record["experiment"]
    return f"is not {ran['assignment']}:{ran['variant']} as in variants.toml; it differs in {', '.join(changed)}."


def find_problems() -> list[str]:
    """What is wrong with the published records, a sentence each: edited after the run, of another experiment than
    ``variants.toml`` has now, under another run's name, without a notebook.
    """
    problems = []
    for path in sorted(ASSIGNMENTS.glob("*/results/*.json")):
        try:
            record = read_record(path)
            if changed := changed_settings(record):
                problems.append(f"{path} {_not_its_variant(record, changed)}")
            name = run_name(variant_of(record))
            if (record["experiment"]["assignment"], name) != (path.parents[1].name, path.stem):
                problems.append(f"{path} is the record of {record['experiment']['assignment']}, {name}.")
        except CourseError as error:
            problems.append(str(error))
    for assignment in list_assignments():
        runs = ASSIGNMENTS / assignment / "runs"
        with contextlib.suppress(CourseError, LookupError, ValueError):  # an unreadable record is a problem above
            problems += [f"{name} of {assignment} has no executed notebook." for name in sorted(_shown_runs(assignment))
                         if not (runs / f"{name}.ipynb").is_file()]
    return problems


def update_readmes(check: bool = False) -> list[Path]:
    """Write the blocks of every README; return the files that differed. With ``check`` nothing is written."""
    if not check:
        _draw_comparisons()
    changed = []
    for path, blocks in _expected_blocks().items():
        before = path.read_text(encoding="utf-8")
        after = before
        for name, content in blocks.items():
            after = _replace_block(after, name, content, path)
        if after != before:
            changed.append(path)
            if not check:
                atomic_write(path, after)
    return changed


def _draw_comparisons() -> None:
    for name in list_assignments():
        if runs := tables.compared_histories(name):
            title = f"{read_assignment(name)['title']}: {' and '.join(runs)}"
            plots.save_figure(plots.comparison(runs, title), REPO / "images" / name / "comparison.png")


def _expected_blocks() -> dict[Path, dict[str, str]]:
    names = list_assignments()
    expected = {REPO / "README.md": {"results": "\n\n".join(_section(name) for name in names)}}
    for name in names:
        path = ASSIGNMENTS / name / "README.md"
        table = tables.results_table(name).replace(f"(assignments/{name}/", "(")
        text = path.read_text(encoding="utf-8")
        expected[path] = {"results": table, "figures": _figures(name)}
        expected[path] |= {block: make(name) for block, make in BLOCKS.items() if f"<!-- {block}:" in text}
    return expected


def _section(assignment: str) -> str:
    about = read_assignment(assignment)
    # OWNER/NAME of the repository on GitHub: as the README has it now
    found = re.search(rf"{re.escape(COLAB)}github/([\w.-]+/[\w.-]+)/blob", (REPO / "README.md").read_text("utf-8"))
    badge = (f"[![Open in Colab]({COLAB}assets/colab-badge.svg)]"
             f"({COLAB}github/{found[1] if found else 'OWNER/NAME'}/blob/main/notebooks/{about['notebook']}.ipynb)")
    return f"**[{about['title']}](assignments/{assignment}/README.md)** {badge}\n\n{tables.results_table(assignment)}"


def _figures(assignment: str) -> str:
    """The figures of the first run of every row in the table of results."""
    lines = []
    if tables.compared_histories(assignment):
        lines.append(f"![comparison](../../images/{assignment}/comparison.png)")
    for runs in tables.group_runs(assignment):
        name = runs[0][0]
        for kind in FIGURES:
            if (REPO / "images" / assignment / f"{name}-{kind}.png").exists():
                lines.append(f"![{kind.replace('_', ' ')}, {name}](../../images/{assignment}/{name}-{kind}.png)")
    return "\n\n".join(lines) or "_No run yet._"


def _replace_block(text: str, name: str, content: str, path: Path) -> str:
    start, end = (marker.format(name=name) for marker in MARKERS)
    pattern = re.compile(re.escape(start) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise CourseError(f"{path} must contain exactly one pair of markers: {start} ... {end}")
    return pattern.sub(lambda _: f"{start}\n{content}\n{end}", text)
