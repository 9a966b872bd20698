"""READMEs: publishing a run, and writing the blocks between markers from the published records."""
import json
import re
from pathlib import Path

from course_utils import plots
from course_utils.config import ASSIGNMENTS
from course_utils.errors import CourseError
from course_utils.reporting import overview, tables, weights
from course_utils.reporting.executed import check_fresh_run, move_links, strip_paths
from course_utils.reporting.networks import networks_page
from course_utils.reporting.record import Record, changed_settings, is_published_data, read_record, variant_of
from course_utils.reporting.run_folder import run_name
from course_utils.utils import REPO, atomic_write, file_sha256
from course_utils.variants import list_assignments, read_assignment

MARKERS = "<!-- {name}: written by python -m course_utils report -->", "<!-- end of {name} -->"
BLOCKS = {"provenance": tables.provenance_table, "splits": tables.split_table, "versions": tables.versions_table,
          "weights": weights.weights_table, "mirrors": tables.mirror_table}
FIGURES = ("curves", "straightened", "transforms", "dilation", "receptive_field", "lr_finder", "range_test", "fixres",
           "resolution", "confusion", "mistakes", "grad_cam")  # of a run; range_test: the first edition's name
STRIP = (  # pictures at the head of the README: a published figure, and the part of it (left, top, right, bottom)
    ("gtsrb_stn/lenet_stn-lean-8epochs-random-seed0-straightened", (0, 0.07, 0.4, 1)),
    ("cifar10_dilated_depthwise/net-lean-30epochs-seed0-dilation", (0.633, 0.13, 1, 0.88)),
    ("cifar10_custom_resnet/published-24epochs-seed0-lr_finder", (0, 0, 1, 1)),
    ("stl10_versions/2.4-lean-200epochs-seed0-fixres", (0, 0, 1, 1)))
COLAB = "https://colab.research.google.com/"


def publish(folder: Path) -> str:
    """Make the run in ``folder`` a published result: copy its record and, of the first seed, its executed notebook and
    figures; return its name. Raises ``CourseError`` for a record that contradicts itself or has ``_faults``, and for a
    notebook that is another run's or not one fresh run.
    """
    record = read_record(folder / "record.json")
    if faults := _faults(record):
        raise CourseError(f"{folder} {' It '.join(faults)}")
    assignment, name = record["experiment"]["assignment"], run_name(variant_of(record))
    notebook = folder / f"{read_assignment(assignment)['notebook']}.ipynb"
    check_fresh_run(notebook)
    if not _shows(notebook, tables.summary_markdown(record)):
        raise CourseError(f"{notebook} does not end with the summary of this record: it is of another run.")
    home, images = ASSIGNMENTS / assignment, REPO / "images" / assignment
    for target in (home / "results", home / "runs", images):
        target.mkdir(parents=True, exist_ok=True)
    atomic_write(home / "results" / f"{name}.json", (folder / "record.json").read_bytes())
    shown = [runs[0][0] for runs in tables.group_runs(assignment)]  # of each row of the table the first seed
    if name in shown:
        atomic_write(home / "runs" / f"{name}.ipynb", move_links(strip_paths(notebook)))
        weights.export_weights(folder, record, name)
        for figure in (folder.resolve() / "figures" / f"{kind}.png" for kind in FIGURES):
            if figure.is_file() and figure.resolve() == figure:  # a link may lead to another run's
                atomic_write(images / f"{name}-{figure.name}", figure.read_bytes())
        files = {path.name for run in shown for path in _evidence(assignment, run)}
        kept = {file: digest for file, digest in _read_checksums(assignment).items() if file in files}
        sums = kept | {path.name: file_sha256(path) for path in _evidence(assignment, name)}
        atomic_write(home / "runs" / "SHA256SUMS", *(f"{digest}  {file}\n" for file, digest in sorted(sums.items())))
    return name


def _shows(notebook: Path, text: str) -> bool:
    """Whether an output of ``notebook`` ends with ``text``, and not in a quotation of a published run."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    shown = ["".join(output.get("data", {}).get("text/markdown", "")) for cell in cells
             for output in cell.get("outputs", ())]
    return any(part.endswith(text) and not part.startswith(weights.QUOTED) for part in shown)


def _faults(record: Record) -> list[str]:
    """Why a run is no result of its variant: its data, or settings of its own besides seed, epochs and split."""
    exp, faults = record["experiment"], []
    if not is_published_data(record):
        title = "synthetic data" if record["synthetic"] else record["data"]["title"]
        faults.append(f"is a run on {title}: not a result.")
    if changed := changed_settings(record):
        faults.append(f"is not {exp['assignment']}:{exp['variant']} as in variants.toml; it differs in "
                      f"{', '.join(changed)}. Define a variant of its own.")
    return faults


def _evidence(assignment: str, run: str) -> list[Path]:
    """The published files of a run besides its record: executed notebook and figures."""
    files = [REPO / "images" / assignment / f"{run}-{kind}.png" for kind in FIGURES]
    files += [path for path in (ASSIGNMENTS / assignment / "weights").glob("*.safetensors")
              if weights.read_card(path).get("run") == run]
    return [ASSIGNMENTS / assignment / "runs" / f"{run}.ipynb", *(path for path in files if path.exists())]


def _read_checksums(assignment: str) -> dict[str, str]:
    """SHA-256 by file name, of the evidence as it was published: a file as ``sha256sum`` writes it."""
    path = ASSIGNMENTS / assignment / "runs" / "SHA256SUMS"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    return {name: digest for digest, name in map(str.split, lines)}


def _changed_evidence(assignment: str) -> list[str]:
    """A sentence for each published file that is missing or not what was published."""
    sums, problems = _read_checksums(assignment), []
    files = {path.name: path for runs in tables.group_runs(assignment) for path in _evidence(assignment, runs[0][0])}
    for name in sorted(sums.keys() | files.keys()):
        if name not in files or not files[name].is_file():
            problems.append(f"{name} of {assignment} is missing.")
        elif file_sha256(files[name]) != sums.get(name):
            problems.append(f"{files[name]} is not the file that was published (SHA-256): publish its run again.")
    return problems


def find_problems() -> list[str]:
    """A sentence for each published record that is edited, misnamed or has ``_faults``, and each changed file."""
    problems, unreadable = [], set()
    for path in sorted(ASSIGNMENTS.glob("*/results/*.json")):
        try:
            record = read_record(path)
            problems += [f"{path} {fault}" for fault in _faults(record)]
            assignment, name = record["experiment"]["assignment"], run_name(variant_of(record))
            if (assignment, name) != (path.parents[1].name, path.stem):
                problems.append(f"{path} is the record of {assignment}, {name}.")
        except CourseError as error:
            problems.append(str(error))
            unreadable.add(path.parents[1].name)
    for assignment in (name for name in list_assignments() if name not in unreadable):
        try:
            problems += _changed_evidence(assignment)
        except (CourseError, LookupError, ValueError) as error:  # SHA256SUMS, or a file of weights, is damaged
            problems.append(f"The published files of {assignment} cannot be checked: {error}")
    return problems


def update_readmes(check: bool = False) -> list[Path]:
    """Write the blocks of every README; return the files that differed. With ``check`` nothing is written."""
    if not check:
        for name in list_assignments():
            if runs := tables.compared_histories(name):
                title = f"{read_assignment(name)['title']}: {' and '.join(runs)}"
                plots.save_figure(plots.comparison(runs, title), REPO / "images" / name / "comparison.png")
        plots.save_figure(overview.overview_figure(), REPO / "images" / "overview.png")
        for number, (name, part) in enumerate(STRIP, 1):
            if (source := REPO / "images" / f"{name}.png").is_file():
                plots.save_part(source, part, REPO / "images" / f"strip-{number}.png")
    changed = []
    for path, text in _expected_pages(draw=not check).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            changed.append(path)
            if not check:
                atomic_write(path, text)
    return changed


def _expected_pages(draw: bool) -> dict[Path, str]:
    names, readme = list_assignments(), REPO / "README.md"
    pages = {ASSIGNMENTS / name / "networks.md": networks_page(name, draw) for name in names}
    pages[readme] = _replace_blocks(readme, {"assignments": overview.assignments_table(_link),
                                             "results": overview.overview_table()})
    for name in names:
        path = ASSIGNMENTS / name / "README.md"
        text, table = path.read_text(encoding="utf-8"), tables.results_table(name)
        if (short := tables.results_table(name, full_length=False)) != tables.NO_RUN:
            table += f"\n\n<details><summary>Shortened runs, not comparable</summary>\n\n{short}\n\n</details>"
        blocks = {"results": table.replace(f"(assignments/{name}/", "("), "figures": _figures(name)}
        blocks |= {block: make(name) for block, make in BLOCKS.items() if f"<!-- {block}:" in text}
        pages[path] = _replace_blocks(path, blocks)
    return pages


def _link(assignment: str) -> str:
    """The assignment's notebook, here and in Colab."""
    about = read_assignment(assignment)
    notebook = f"notebooks/{about['notebook']}.ipynb"
    found = re.search(rf"{re.escape(COLAB)}github/([\w.-]+/[\w.-]+)/blob", (REPO / "README.md").read_text("utf-8"))
    repository = found[1] if found else "OWNER/NAME"  # on GitHub, as the README has it now
    return f"[notebook]({notebook}) · [Colab]({COLAB}github/{repository}/blob/main/{notebook})"


def _figures(assignment: str) -> str:
    """The figures of the first run of every row in the table of results, folded, a block for each run."""
    folder, lines = f"../../images/{assignment}", []
    if tables.compared_histories(assignment):
        lines.append(f"![comparison]({folder}/comparison.png)")
    for runs in tables.group_runs(assignment):
        name = runs[0][0]
        lines.append(f"<details><summary>{name}: {tables.accuracy_text(runs[:1])} of the test images</summary>")
        lines += [f"![{kind.replace('_', ' ')}, {name}]({folder}/{name}-{kind}.png)" for kind in FIGURES
                  if (REPO / "images" / assignment / f"{name}-{kind}.png").exists()]
        lines.append("</details>")
    return "\n\n".join(lines) or tables.NO_RUN


def _replace_blocks(path: Path, blocks: dict[str, str]) -> str:
    """The text of ``path`` with these contents between their markers."""
    text = path.read_text(encoding="utf-8")
    for name, content in blocks.items():
        start, end = (marker.format(name=name) for marker in MARKERS)
        before, *parts = re.split(re.escape(start) + ".*?" + re.escape(end), text, flags=re.DOTALL)
        if len(parts) != 1:
            raise CourseError(f"{path} must contain exactly one pair of markers: {start} ... {end}")
        text = f"{before}{start}\n{content}\n{end}{parts[0]}"
    return text
