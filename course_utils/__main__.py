"""The command line: ``python -m course_utils COMMAND``."""
from __future__ import annotations

import argparse
import atexit
import json
import locale
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError
from course_utils.config import PROFILES, assignments, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done; 1 a run failed, a README differs, a rule is broken; 2 the command cannot be carried out;
    130 it was interrupted.
    """
    args = _parser().parse_args(arguments)
    try:
        return args.command(args)
    except CourseError as error:
        print(f"course_utils: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"course_utils: {error.filename or ''}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m course_utils", description="The course from the shell.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    data = commands.add_parser("data", help="get a data set and prepare it as arrays")
    data.add_argument("name", help="cifar10, gtsrb or stl10")
    data.add_argument("--root", type=Path, help="folder of all data sets (default: $COURSE_DATA, else data/)")
    data.set_defaults(command=_data)

    run = commands.add_parser("run", help="run notebooks headless and end with a table")
    run.add_argument("experiments", nargs="*", metavar="ASSIGNMENT[:VARIANT]", help="default: every assignment")
    run.add_argument("--profile", default="smoke", choices=PROFILES, help="smoke (default): on the drawn sample")
    run.add_argument("--seeds", type=_numbers, default=[0], metavar="0,1,2", help="one run for each (default: 0)")
    run.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE",
                     help="a parameter of the notebook, such as epochs=5 or split=random; may be given again")
    run.add_argument("--jobs", type=_count, default=1, help="runs at a time on the CPU, sharing its cores (default: 1)")
    run.add_argument("--output", type=Path, metavar="DIR", help="where each run makes its folder (default: outputs/)")
    run.add_argument("--again", action="store_true", help="begin anew, also what is done")
    run.add_argument("--limit", type=_count, metavar="SECONDS", help="of a cell (default: 300 a job; full: a week)")
    run.set_defaults(command=_run)

    now = commands.add_parser("status", help="where the runs in a folder stand")
    now.add_argument("--output", type=Path, metavar="DIR", help="the folder given to `run` (default: outputs/)")
    now.set_defaults(command=_now)

    report = commands.add_parser("report", help="write the READMEs' tables from the records")
    report.add_argument("--check", action="store_true", help="write nothing; exit 1 when a README differs")
    report.set_defaults(command=_report)

    check = commands.add_parser("check", help="hold a network against its assignment's rules")
    check.add_argument("assignment")
    check.add_argument("--variant", help="default: the one that its notebook starts with")
    check.add_argument("--model", metavar="FILE.py:CLASS", help="a network of your own, or another of the course's")
    check.set_defaults(command=_check)

    compare = commands.add_parser("compare", help="two runs side by side: settings, curves, classes, changed images")
    compare.add_argument("runs", nargs=2, metavar="RUN", help="a run's folder, a record, or a published run's name")
    compare.add_argument("--output", type=Path, metavar="DIR", help="of its figures (default: outputs/compare/)")
    compare.add_argument("--root", type=Path, help="folder of all data sets (default: $COURSE_DATA, else data/)")
    compare.set_defaults(command=_compare)

    repo = commands.add_parser("repo", help="say where the repository lies on GitHub; badges and cells follow")
    repo.add_argument("address", metavar="OWNER/NAME")
    repo.set_defaults(command=_repo)

    adopt = commands.add_parser("adopt", help="make a finished full run a published result")
    adopt.add_argument("folder", type=Path, help="the run's folder, with record.json")
    adopt.add_argument("notebook", type=Path, nargs="?", help="its executed notebook (default: the one in the folder)")
    adopt.set_defaults(command=_adopt)
    return parser


def _numbers(text: str) -> list[int]:
    try:
        return [int(number) for number in text.split(",")]
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers such as 0,1,2") from error


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of at least 1")
    return int(text)


def _setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE`` with its value as JSON where it is some (a number), else as it stands."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name.lower(), json.loads(value)
    except ValueError:
        return name.lower(), value


def _data(args: argparse.Namespace) -> int:
    from course_utils.data.prepare import prepare

    prepare(args.name, args.root)
    return 0


OWN_OPTIONS = {"profile": "--profile", "seed": "--seeds", "variant": "ASSIGNMENT:VARIANT", "assignment": "ASSIGNMENT",
               "output_dir": "--output", "data_dir": "the environment variable COURSE_DATA"}  # instead of --set


def _run(args: argparse.Namespace) -> int:
    from course_utils.runner import batch, estimate, live, status, warm

    _end_with_signals()
    _have_a_home()
    changes = dict(args.set)
    for name in changes:
        if name in OWN_OPTIONS:
            raise CourseError(f"--set {name}: say it by {OWN_OPTIONS[name]}.")
    experiments = [load(*name.split(":", 1), profile=args.profile, seed=seed, **changes)
                   for name in args.experiments or assignments() for seed in args.seeds]
    parameters = {name.upper(): value for name, value in changes.items()}
    jobs = batch.plan(experiments, parameters, args.output, args.again)
    folders, todo = [job.folder for job in jobs], [job for job in jobs if args.again or not job.done()]
    places = batch.slots(min(args.jobs, len(todo)) or 1)
    if todo:
        warm.warm_up()  # while the first steps are measured
        found = estimate.estimates([job.exp for job in todo], folders)
        gpus = sum("CUDA_VISIBLE_DEVICES" in place for place in places)
        print(estimate.forecast([f"{job.exp.assignment}:{job.exp.variant}" for job in todo], found, gpus))
        order = sorted(range(len(todo)), key=lambda number: -(found[number].seconds or 0))
        todo = [todo[number] for number in order]  # the longest first, so that no place stands idle at the end
    for job in todo if args.again else ():
        job.begin_anew()
    runner = batch.Batch(todo, places, args.limit)
    with live.board(folders) as tell:
        try:
            runner.run(tell)
        except KeyboardInterrupt:
            without = " without --again" if args.again else ""
            print(f"Stopped. The same command{without} takes up what is not done: full runs at their last epoch.",
                  file=sys.stderr)
            return 130
    print(live.table(folders))
    homes = sorted({batch.shown(folder.parent) for folder in folders})
    print(f"Executed notebooks, and pages of them, lie in {', '.join(homes)}.")
    ended = {job.folder: job.status() for job in jobs} | {job.folder: now for job, now in zip(todo, runner.found)}
    if words := status.complaints(ended):
        print(f"\n{words}", file=sys.stderr)
    return 0 if all(now.state == "done" for now in ended.values()) else 1


def _have_a_home() -> None:
    """Jupyter asks for the user's home; in a container there may be none."""
    try:
        Path.home()
    except RuntimeError:
        os.environ["HOME"] = home = tempfile.mkdtemp(prefix="home-")  # nobody else's: programs take settings from it
        atexit.register(shutil.rmtree, home, ignore_errors=True)


def _end_with_signals() -> None:
    """Asked to end in whatever way, a batch ends its children: by SIGTERM, and by SIGHUP unless under ``nohup``."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def _now(args: argparse.Namespace) -> int:
    from course_utils.runner import batch, live, status
    from course_utils.utils import REPO

    root = batch.whole(args.output or REPO / "outputs")
    folders = sorted(path.parent for path in root.glob("**/status.json"))
    found = {folder: now for folder in folders if (now := status.read_status(folder))}
    print("\n\n".join(filter(None, [live.table(folders), status.complaints(found)])) if folders
          else f"No runs in {root}.")
    return 0


def _report(args: argparse.Namespace) -> int:
    from course_utils.reporting.readme import report, require_sound

    try:
        require_sound()
    except CourseError as error:
        if not args.check:
            raise
        print(error, file=sys.stderr)
        return 1
    changed = report(check=args.check)
    for path in changed:
        print(f"{path}: {'differs from its records' if args.check else 'written'}")
    return 1 if args.check and changed else 0


def _check(args: argparse.Namespace) -> int:
    from course_utils.analysis import rules as rubric
    from course_utils.data.datasets import DATASETS
    from course_utils.models import build_model

    exp = load(args.assignment, args.variant, model=args.model)
    about = DATASETS[exp.dataset]
    model = build_model(exp.model, about.classes, about.side, **exp.model_settings)
    findings = rubric.check(exp, model, about.side, None if args.model else rubric.recorded_accuracy(exp))
    print(rubric.findings_table(findings))
    return 0 if rubric.passed(findings) else 1


def _compare(args: argparse.Namespace) -> int:
    from course_utils import plots
    from course_utils.reporting import compare
    from course_utils.utils import REPO

    one, other = compare.told_apart(*map(compare.find, args.runs))
    folder = args.output or REPO / "outputs" / "compare" / f"{one[0]} {other[0]}"
    folder.mkdir(parents=True, exist_ok=True)
    print(compare.compare(one, other))
    plots.save_figure(compare.both_curves(one, other), folder / "curves.png")
    try:
        text, figure = compare.changed(one, other, compare.judged_on(one, other, args.root))
        plots.save_figure(figure, folder / "changed.png")
    except CourseError as error:
        text = f"Which images changed cannot be shown: {error}"
    print(f"\n{text}\n\nFigures: {folder}")
    return 0


def _repo(args: argparse.Namespace) -> int:
    from course_utils.reporting import address
    from course_utils.reporting.readme import report, require_sound

    require_sound()
    for path in [*address.change(args.address), *report()]:
        print(f"{path}: written")
    return 0


def _adopt(args: argparse.Namespace) -> int:
    from course_utils.reporting.readme import adopt, report

    notebook = args.notebook or next(iter(sorted(args.folder.glob("*.ipynb"))), None)
    if notebook is None:
        raise CourseError(f"{args.folder} holds no executed notebook; name it as the second argument.")
    print(f"adopted {adopt(args.folder, notebook)}")
    report()
    print("Now execute the assignment's notebook anew (CONTRIBUTING.md): it shows the table of finished runs.")
    return 0


def _speak_utf8() -> None:
    """Begin again in Python's UTF-8 mode where the locale knows fewer letters than a path or a notebook may hold."""
    os.environ["PYTHONUTF8"] = "1"
    if os.name == "posix" and not sys.flags.utf8_mode and locale.getencoding().upper() != "UTF-8":
        os.execv(sys.executable, [sys.executable, "-m", "course_utils", *sys.argv[1:]])


if __name__ == "__main__":
    _speak_utf8()
    sys.exit(main())
