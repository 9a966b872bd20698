"""The command line: ``python -m course_utils COMMAND``."""
from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from course_utils.errors import CourseError
from course_utils.experiment import PROFILES, assignments, load


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done; 1 a run failed, a README differs, a rule is broken; 2 the command cannot be carried out."""
    args = _parser().parse_args(arguments)
    try:
        return args.command(args)
    except CourseError as error:
        print(f"course_utils: {error}", file=sys.stderr)
        return 2


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
    run.add_argument("--jobs", type=int, default=1, help="runs at a time on the CPU, sharing its cores (default: 1)")
    run.add_argument("--output", type=Path, metavar="DIR", help="where each run makes its folder (default: outputs/)")
    run.add_argument("--again", action="store_true", help="begin anew, also what is done")
    run.add_argument("--limit", type=float, metavar="SECONDS", help="a cell may take (default: 300; full: a week)")
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

    adopt = commands.add_parser("adopt", help="make a finished full run a published result")
    adopt.add_argument("folder", type=Path, help="the run's folder, with record.json")
    adopt.add_argument("notebook", type=Path, nargs="?", help="its executed notebook (default: the one in the folder)")
    adopt.set_defaults(command=_adopt)
    return parser


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


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
    from course_utils.acquire import prepare

    prepare(args.name, args.root)
    return 0


def _run(args: argparse.Namespace) -> int:
    from course_utils import batch, live

    if args.jobs < 1:
        raise CourseError(f"--jobs {args.jobs}: must be at least 1.")
    changes = dict(args.set)
    experiments = [load(*name.split(":", 1), profile=args.profile, seed=seed, **changes)
                   for name in args.experiments or assignments() for seed in args.seeds]
    jobs = batch.plan(experiments, {name.upper(): value for name, value in changes.items()}, args.output)
    for job in jobs if args.again else ():
        job.begin_anew()
    folders = [job.folder for job in jobs]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # asked to end in whatever way, it ends its children
    with live.board(folders) as tell:
        try:
            batch.Batch([job for job in jobs if not job.done()], batch.slots(args.jobs), args.limit).run(tell)
        except KeyboardInterrupt:
            print("Stopped. The same command goes on where this one was.", file=sys.stderr)
            return 130
    print(live.table(folders))
    places = sorted({batch.shown(folder.parent) for folder in folders})
    print(f"Executed notebooks, and pages of them, lie in {', '.join(places)}.")
    failed = [now for now in (job.status() for job in jobs) if now.state != "done"]
    for now in failed:
        print(f"\n{now.assignment}:{now.variant}, seed {now.seed}: {now.state}: {now.message}", file=sys.stderr)
    return 1 if failed else 0


def _now(args: argparse.Namespace) -> int:
    from course_utils import live
    from course_utils.files import REPO

    root = args.output or REPO / "outputs"
    print(live.table(sorted(path.parent for path in root.glob("**/status.json"))))
    return 0


def _report(args: argparse.Namespace) -> int:
    from course_utils.report import report

    changed = report(check=args.check)
    for path in changed:
        print(f"{path}: {'differs from its records' if args.check else 'written'}")
    return 1 if args.check and changed else 0


def _check(args: argparse.Namespace) -> int:
    from course_utils import rubric
    from course_utils.datasets import DATASETS
    from course_utils.models import build_model

    exp = load(args.assignment, args.variant, model=args.model)
    about = DATASETS[exp.dataset]
    model = build_model(exp.model, about.classes, about.side, **exp.model_settings)
    findings = rubric.check(exp, model, about.side, None if args.model else rubric.recorded_accuracy(exp))
    print(rubric.findings_table(findings))
    return 0 if rubric.passed(findings) else 1


def _adopt(args: argparse.Namespace) -> int:
    from course_utils.report import adopt, report

    notebook = args.notebook or next(iter(sorted(args.folder.glob("*.ipynb"))), None)
    if notebook is None:
        raise CourseError(f"{args.folder} holds no executed notebook; name it as the second argument.")
    print(f"adopted {adopt(args.folder, notebook)}")
    report()
    return 0


if __name__ == "__main__":
    sys.exit(main())
