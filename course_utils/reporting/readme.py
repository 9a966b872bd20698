"""Results into the READMEs: adopting a run, and writing tables between markers from the records alone."""
from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from course_utils import config as experiment, plots
from course_utils.reporting import address, record, tables
from course_utils.errors import CourseError
from course_utils.config import ASSIGNMENTS
from course_utils.utils import REPO, write_whole

MARKERS = "<!-- {name}: written by python -m course_utils report -->", "<!-- end of {name} -->"
BLOCKS = {"splits": tables.split_table, "versions": tables.versions_table}  # where an assignment's README asks for them
SHOWN = ("curves", "straightened", "transforms", "range_test", "fixres", "resolution", "confusion", "mistakes",
         "grad_cam")  # in a README


def adopt(folder: Path, notebook: Path) -> str:
    """Make the run in ``folder`` a published result: its record, executed notebook and figures; return its name.

    Raises ``CourseError`` for a run on the sample, a record that does not agree with itself, and a run with overrides
    other than seed, epochs and split: under the variant's name it would say something else than the variant.
    """
    found = record.read(folder / "record.json")
    if found["sample"]:
        raise CourseError(f"{folder} was run on the sample: it says nothing about the real data and is not a result.")
    if differ := record.strays(found):
        raise CourseError(f"{folder} {_not_its_variant(found, differ)} Give it a variant of its own.")
    check_fresh(notebook)
    assignment, name = found["experiment"]["assignment"], record.run_name(record.variant_of(found))
    home = ASSIGNMENTS / assignment
    for target in (home / "results", home / "runs", REPO / "images" / assignment):
        target.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(folder / "record.json", home / "results" / f"{name}.json")
    write_whole(home / "runs" / f"{name}.ipynb", record.without_paths(notebook))
    for figure in (folder / "figures" / f"{kind}.png" for kind in SHOWN):  # the others are in the notebook
        if figure.exists():
            shutil.copyfile(figure, REPO / "images" / assignment / f"{name}-{figure.name}")
    return name


def check_fresh(notebook: Path) -> None:
    """Raise ``CourseError`` for a notebook that is not one run from its top, without an error."""
    try:
        table = json.loads(notebook.read_text(encoding="utf-8"))
        cells = [cell for cell in table["cells"] if cell["cell_type"] == "code"]
        counts = [cell["execution_count"] for cell in cells]
        kinds = {output["output_type"] for cell in cells for output in cell["outputs"]}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CourseError(f"{notebook} is no notebook: {error!r}.") from error
    if counts != list(range(1, len(cells) + 1)) or "error" in kinds:
        raise CourseError(f"{notebook} is not one fresh run from its top to its end: its cells ran as {counts}.")


def _not_its_variant(found: record.Record, differ: Sequence[str]) -> str:
    ran = found["experiment"]
    return f"is not {ran['assignment']}:{ran['variant']} as variants.toml has it; it differs in {', '.join(differ)}."


def require_sound() -> None:
    """Raise ``CourseError`` with all ``faults`` of the published records, if there are any."""
    if wrong := faults():
        raise CourseError("\n".join(wrong))


def faults() -> list[str]:
    """What is wrong with the published records, a sentence each: changed after the run, of another experiment than
    ``variants.toml`` has now, under another run's name, without their notebook.
    """
    found = []
    for path in sorted(ASSIGNMENTS.glob("*/results/*.json")):
        try:
            run = record.read(path)
            if differ := record.strays(run):
                found.append(f"{path} {_not_its_variant(run, differ)}")
            name = record.run_name(record.variant_of(run))
            if (run["experiment"]["assignment"], name) != (path.parents[1].name, path.stem):
                found.append(f"{path} is the record of {run['experiment']['assignment']}, {name}.")
        except CourseError as error:
            found.append(str(error))
        if not (path.parents[1] / "runs" / f"{path.stem}.ipynb").is_file():
            found.append(f"{path} lacks its executed notebook.")
    return found


def report(check: bool = False) -> list[Path]:
    """Write every README's tables; return the files that differed. With ``check`` nothing is written."""
    if not check:
        _draw_comparisons()
    changed = []
    for path, blocks in _wanted().items():
        before = path.read_text(encoding="utf-8")
        after = before
        for name, text in blocks.items():
            after = _fill(after, name, text, path)
        if after != before:
            changed.append(path)
            if not check:
                write_whole(path, after)
    return changed


def _draw_comparisons() -> None:
    for name in experiment.assignments():
        if runs := tables.compared(name):
            title = f"{experiment.describe(name)['title']}: {' and '.join(runs)}"
            plots.save_figure(plots.comparison(runs, title), REPO / "images" / name / "comparison.png")


def _wanted() -> dict[Path, dict[str, str]]:
    names = experiment.assignments()
    wanted = {REPO / "README.md": {"figure": _lead_figure(names),
                                   "results": "\n\n".join(_section(name) for name in names)}}
    for name in names:
        home = ASSIGNMENTS / name / "README.md"
        up = tables.results_table(name).replace(f"(assignments/{name}/", "(")
        wanted[home] = {"results": up, "figures": _figures(name)}
        text = home.read_text(encoding="utf-8")
        wanted[home] |= {block: make(name) for block, make in BLOCKS.items() if f"<!-- {block}:" in text}
    return wanted


def _section(assignment: str) -> str:
    about = experiment.describe(assignment)
    return (f"**[{about['title']}](assignments/{assignment}/README.md)** {address.badge(about['notebook'])}\n\n"
            f"{tables.results_table(assignment, tables.SHORT)}")


def _lead_figure(names: Sequence[str]) -> str:
    """The mistakes of the most accurate published run that has a Grad-CAM of them."""
    found = [(run["final"]["accuracy"], f"images/{assignment}/{name}-grad_cam.png")
             for assignment in names for name, run in record.results(assignment).items()]
    found = [(accuracy, path) for accuracy, path in found if (REPO / path).exists()]
    return f"![What a network looked at when it was surest and wrong]({max(found)[1]})" if found else "_No run yet._"


def _figures(assignment: str) -> str:
    """The figures of the first run of every row in the table of results."""
    lines = []
    if tables.compared(assignment):
        lines.append(f"![comparison](../../images/{assignment}/comparison.png)")
    for runs in tables.groups(assignment):
        name = runs[0][0]
        for kind in SHOWN:
            if (REPO / "images" / assignment / f"{name}-{kind}.png").exists():
                lines.append(f"![{kind.replace('_', ' ')}, {name}](../../images/{assignment}/{name}-{kind}.png)")
    return "\n\n".join(lines) or "_No run yet._"


def _fill(text: str, name: str, content: str, path: Path) -> str:
    begin, end = (marker.format(name=name) for marker in MARKERS)
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if len(pattern.findall(text)) != 1:
        raise CourseError(f"{path} must hold exactly one pair of markers: {begin} ... {end}")
    return pattern.sub(lambda _: f"{begin}\n{content}\n{end}", text)
