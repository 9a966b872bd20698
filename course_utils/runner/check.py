"""An assignment's rules, checked on a network: one from a file in a process of its own."""
import multiprocessing
from multiprocessing.connection import Connection

from course_utils.analysis.rules import all_passed, check_rules, findings_table
from course_utils.config import Experiment, locate_model
from course_utils.data.info import DATASETS
from course_utils.errors import CourseError
from course_utils.models import build_model
from course_utils.models.custom import errors_of_file
from course_utils.reporting.tables import recorded_accuracy


def check_network(exp: Experiment, is_variants: bool) -> tuple[str, bool]:
    """The table of the rules, and whether all are kept; with ``is_variants`` the accuracy is that of published runs.
    Raises ``CourseError`` for code in a file that ends the program. What it leaves running is killed.
    """
    if not exp.model_file:
        return _findings(exp, is_variants)
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_findings, args=(sender, exp, is_variants))
    process.start()
    sender.close()
    try:
        found = receiver.recv()
    except EOFError:
        raise CourseError(f"{exp.model} ended the program while it was checked.") from None
    finally:
        process.kill()
        process.join()
    if isinstance(found, str):
        raise CourseError(found)
    return found


def _send_findings(sender: Connection, exp: Experiment, is_variants: bool) -> None:
    try:
        with errors_of_file(locate_model(exp.model)[0]):
            sender.send(_findings(exp, is_variants))
    except CourseError as error:
        sender.send(str(error))


def _findings(exp: Experiment, is_variants: bool) -> tuple[str, bool]:
    info = DATASETS[exp.dataset]
    model = build_model(exp.model, len(info.classes), info.image_size, **exp.model_settings)
    findings = check_rules(exp, model, info.image_size, recorded_accuracy(exp) if is_variants else None)
    return findings_table(findings), all_passed(findings)
