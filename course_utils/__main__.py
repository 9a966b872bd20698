"""The command line: ``python -m course_utils COMMAND``."""
import argparse
import json
import locale
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from course_utils.config import PROFILES, SETTINGS
from course_utils.errors import CourseError
from course_utils.utils import REPO, number_order
from course_utils.variants import PARAMETERS, list_assignments, load_experiment

RESERVED_PARAMETERS = {"profile": "--profile", "seed": "--seeds", "variant": "ASSIGNMENT:VARIANT",
                       "assignment": "ASSIGNMENT", "output_dir": "--output",
                       "data_dir": "the environment variable COURSE_DATA"}  # instead of --set


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0 done; 1 a run failed, a README differs, a rule is broken; 2 invalid command; 130 interrupted."""
    args = _parser().parse_args(arguments)
    try:
        return args.command(args)
    except (CourseError, OSError) as error:
        print(f"course_utils: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m course_utils", description="The course from the command line.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        found = commands.add_parser(function.__name__.removeprefix("_"), help=text)
        found.set_defaults(command=function)
        return found

    data = command(_data, "download a data set and prepare it as arrays")
    data.add_argument("name", help="cifar10, gtsrb or stl10; with --from a new name")
    data.add_argument("--from", dest="source", type=_folder, metavar="DIR",
                      help="pictures of your own, in a folder for each class")
    run = command(_run, "run notebooks headless and print a table of results")
    run.add_argument("experiments", nargs="*", metavar="ASSIGNMENT[:VARIANT]", help="default: every assignment")
    run.add_argument("--profile", default="smoke", choices=PROFILES,
                     help="smoke (default): synthetic data; mini: a part of the real data; evaluate: published weights")
    run.add_argument("--seeds", type=_numbers, default=[0], metavar="0,1,2", help="one run for each (default: 0)")
    run.add_argument("--set", type=_setting, action="append", default=[], metavar="NAME=VALUE",
                     help="a parameter of the notebook, such as epochs=5 or split=random; may be repeated")
    run.add_argument("--jobs", type=_count, default=1, help="runs at a time on each GPU, or on the CPU (default: 1)")
    run.add_argument("--restart", action="store_true", help="start all runs from the beginning, finished ones too")
    run.add_argument("--limit", type=_count, metavar="SECONDS",
                     help="time limit of a cell (default: 300 per job; full: a week)")
    run.add_argument("--executor", choices=("local", "ray"), default="local", help="ray: on a cluster")
    run.add_argument("--address", help="of the Ray cluster, or auto (default: a Ray of its own on this machine)")
    run.add_argument("--cpus", type=_count, default=1, help="cores for each run on the cluster (default: 1)")
    run.add_argument("--shared", action="store_true", help="all nodes share --output: retries resume there")
    status = command(_status, "show the state of all runs in a folder")
    report = command(_report, "write the READMEs' tables from the records")
    report.add_argument("--check", action="store_true", help="write nothing; exit code 1 when a README differs")
    check = command(_check, "check a network against its assignment's rules")
    check.add_argument("assignment")
    check.add_argument("--variant", help="default: the notebook's")
    check.add_argument("--model", metavar="FILE.py:CLASS", help="a custom network, or another of the course's")
    compare = command(_compare, "two runs side by side: settings, curves, classes, changed images")
    compare.add_argument("runs", nargs=2, metavar="RUN", help="a run's folder, a record, or a published run's name")
    publish = command(_publish, "make a finished full run a published result")
    publish.add_argument("folder", type=Path, help="the run's folder, with its record and executed notebook")
    predict = command(_predict, "the class of a picture of your own, by published weights")
    predict.add_argument("weights", type=Path, help="a file in assignments/*/weights/")
    predict.add_argument("picture", type=Path, help="any picture file; the whole picture is resized")
    _add_class_commands(command)
    for some in (data, compare):
        some.add_argument("--root", type=_folder, help="folder of the data (default: $COURSE_DATA, else data/)")
    for some in (run, status, compare):
        some.add_argument("--output", type=_folder, metavar="DIR", help="of the runs or figures (default: outputs/)")
    return parser


def _add_class_commands(command: Callable[[Callable, str], argparse.ArgumentParser]) -> None:
    handout = command(_handout, "the student edition of a notebook, without its solutions")
    handout.add_argument("assignment")
    handout.add_argument("--key", type=Path, metavar="FILE",
                         help="secret; also write the data without the test images that it hides")
    handout.add_argument("--dataset", metavar="NAME", help="of this data (default: the assignment's)")
    submit = command(_submit, "collect the files of a finished run to hand in: weights, record, network")
    submit.add_argument("folder", type=Path, help="the run's folder")
    grade = command(_grade, "grade submissions in a sandbox: accuracy on hidden images, rules")
    grade.add_argument("submissions", type=Path, help="a folder with a folder for each student")
    grade.add_argument("--key", type=Path, metavar="FILE", required=True, help="secret: the same file as for handout")
    grade.add_argument("--seconds", type=_count, default=300, help="limit of each of its two programs (default: 300)")
    grade.add_argument("--memory", type=_count, default=4, metavar="GB", help="limit for each (default: 4)")
    grade.add_argument("--jobs", type=_count, default=1, help="submissions at a time (default: 1)")
    for some in (handout, submit, grade):
        some.add_argument("--out", type=_folder, metavar="DIR", required=True, help="folder to write")


def _folder(text: str) -> Path:
    return Path(os.path.expanduser(text)).resolve()


def _numbers(text: str) -> list[int]:
    if not all(number.isdecimal() for number in text.split(",")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers such as 0,1,2")
    return [int(number) for number in text.split(",")]


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def _setting(text: str) -> tuple[str, Any]:
    """``NAME=VALUE``; the value is read as JSON where it is valid JSON (a number), else as a string."""
    name, _, value = text.partition("=")
    if not name or not value:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name.lower(), json.loads(value)
    except ValueError:
        return name.lower(), value


def _data(args: argparse.Namespace) -> int:
    from course_utils.data import own, prepare

    if args.source:
        own.prepare_folder(args.name, args.source, args.root)
    else:
        prepare.prepare(args.name, args.root)
    return 0


def _run(args: argparse.Namespace) -> int:
    from course_utils.data import open_dataset
    from course_utils.runner import batch, status
    from course_utils.runner.cluster import RayExecutor

    for number in (signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)):  # like Ctrl-C: children are killed
        if signal.getsignal(number) is not signal.SIG_IGN:  # under nohup SIGHUP is ignored
            signal.signal(number, signal.default_int_handler)
    changes = dict(args.set)
    for name in changes.keys() & RESERVED_PARAMETERS.keys():
        raise CourseError(f"--set {name}: use {RESERVED_PARAMETERS[name]}.")
    settings = {name: value for name, value in changes.items() if name in SETTINGS}  # the others: the notebook's alone
    if not isinstance(more := changes.get("settings", {}), dict):
        raise CourseError(f"--set settings={more}: it must be a table, such as 'settings={{\"l1\": 0.0}}'.")
    if taken := [name for name in more if name in RESERVED_PARAMETERS or name.upper() in PARAMETERS - {"SPLIT"}]:
        raise CourseError(f"--set settings: {taken[0]} is a parameter of its own: --set {taken[0]}={more[taken[0]]}.")
    settings |= more
    experiments = [load_experiment(*name.split(":", 1), profile=args.profile, seed=seed, **settings)
                   for name in args.experiments or list_assignments() for seed in args.seeds]
    for name in sorted({exp.dataset for exp in experiments if exp.data == "real" and args.executor == "local"}):
        open_dataset(name)  # raises when it is missing
    parameters = {name.upper(): value for name, value in changes.items()}
    jobs = batch.plan_jobs(experiments, parameters, args.output, args.restart)
    if args.restart:
        for job in jobs:
            job.reset()
    folders, todo = [job.folder for job in jobs], [job for job in jobs if not job.is_done()]
    printed: set[tuple[str, ...]] = set()

    def print_changes() -> None:
        for row in status.status_rows(folders):
            if (line := row[:5]) not in printed:  # the last columns are times, which change by themselves
                printed.add(line)
                print("  ".join(cell for cell in line if cell), flush=True)

    try:
        cluster = RayExecutor(args.address, args.cpus, args.shared) if args.executor == "ray" else None
        slots = [{}] * (len(todo) or 1) if cluster else batch.worker_slots(min(args.jobs, len(todo)) or 1)
        statuses = batch.Batch(todo, slots, args.limit, cluster).run(print_changes)
    except KeyboardInterrupt:
        print(f"Stopped. The same command{' without --restart' * args.restart} continues: full runs resume after their "
              "last epoch.", file=sys.stderr)
        return 130
    print(status.status_table(folders))
    print(f"Executed notebooks: {', '.join(sorted({job.parameters['OUTPUT_DIR'] for job in jobs}))}")
    if messages := status.error_messages([job.folder for job in todo], statuses):
        print(f"\n{messages}", file=sys.stderr)
    return 0 if all(found.state == "done" for found in statuses) else 1


def _status(args: argparse.Namespace) -> int:
    from course_utils.runner import status

    root = args.output or REPO / "outputs"
    folders = sorted((path.parent for path in root.glob("**/status.json")), key=number_order)
    messages = status.error_messages(folders, map(status.read_status, folders))
    print(f"{status.status_table(folders)}\n\n{messages}".rstrip() if folders else f"No runs in {root}.")
    return 0


def _report(args: argparse.Namespace) -> int:
    from course_utils.reporting import readme

    if problems := readme.find_problems():
        print("\n".join(problems), file=sys.stderr)
        return 1 if args.check else 2
    changed = readme.update_readmes(check=args.check)
    for path in changed:
        print(f"{path}: {'differs from its records' if args.check else 'written'}")
    return 1 if args.check and changed else 0


def _check(args: argparse.Namespace) -> int:
    from course_utils.runner.check import check_network

    text, passed = check_network(load_experiment(args.assignment, args.variant, model=args.model), not args.model)
    print(text)
    return 0 if passed else 1


def _compare(args: argparse.Namespace) -> int:
    from course_utils import plots
    from course_utils.reporting import compare

    one, other = map(compare.find_record, args.runs)
    folder = args.output or REPO / "outputs" / "compare" / f"{one[0]} {other[0]}"
    print(compare.compare(one, other))
    plots.save_figure(compare.plot_curves(one, other), folder / "curves.png")
    try:
        text, figure = compare.changed_predictions(one, other, compare.open_test_set(one, other, args.root))
        plots.save_figure(figure, folder / "changed.png")
    except CourseError as error:
        text = f"The images whose prediction changed cannot be shown: {error}"
    print(f"\n{text}\n\nFigures: {folder}")
    return 0


def _predict(args: argparse.Namespace) -> int:
    from course_utils.reporting.weights import predict_picture

    figure = REPO / "outputs" / "predict" / f"{args.picture.stem}.png"
    for name, probability in predict_picture(args.weights, args.picture, figure):
        print(f"{probability:6.1%}  {name}")
    print(f"What the network saw: {figure}")
    return 0


def _handout(args: argparse.Namespace) -> int:
    from course_utils.classroom import handout

    print(f"written {handout.make_handout(args.assignment, args.out)}")
    if args.key:
        folder = handout.write_student_data(args.dataset or load_experiment(args.assignment).dataset, args.out / "data",
                                            args.key.read_bytes())
        print(f"written {folder}: for students, as their COURSE_DATA")
    return 0


def _submit(args: argparse.Namespace) -> int:
    from course_utils.classroom.submission import submit

    print(f"Hand in the folder {submit(args.folder, args.out)}")
    return 0


def _grade(args: argparse.Namespace) -> int:
    from course_utils.classroom.grade import grade_all
    from course_utils.classroom.sandbox import Limits

    limits = Limits(args.seconds, args.memory * 1e9)
    grades = grade_all(args.submissions, args.out, args.key.read_bytes(), limits, args.jobs)
    for grade in grades:
        print(f"{grade.student}: {'not graded' if grade.accuracy is None else f'{grade.accuracy:.2%}'} {grade.note}")
    print(f"written {args.out / 'grades.csv'} and {args.out / 'index.html'}")
    return 0


def _publish(args: argparse.Namespace) -> int:
    from course_utils.reporting import readme

    print(f"published {readme.publish(args.folder)}")
    readme.update_readmes()
    print("Now execute the assignment's notebook again (CONTRIBUTING.md): it shows the table of finished runs.")
    return 0


if __name__ == "__main__":
    os.environ["PYTHONUTF8"] = "1"  # of the notebooks; and start again so, where the locale lacks characters of a path
    if os.name == "posix" and not sys.flags.utf8_mode and locale.getencoding().upper() != "UTF-8":
        os.execv(sys.executable, [sys.executable, "-m", "course_utils", *sys.argv[1:]])
    sys.exit(main())
