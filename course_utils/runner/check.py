"""An assignment's rules, checked on a network: one from a file in a process of its own."""
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from course_utils.analysis.rules import all_passed, check_rules, findings_table
from course_utils.config import Experiment
from course_utils.data.info import DATASETS
from course_utils.errors import CourseError
from course_utils.models import build_model
from course_utils.reporting.tables import recorded_accuracy


def check_network(exp: Experiment, is_variants: bool) -> tuple[str, bool]:
    """The table of the rules, and whether all are kept; with ``is_variants`` the accuracy is that of published runs.
    Raises ``CourseError`` for code in a file that ends the program, now or at exit: no passed check.
    """
    if not exp.model_file:
        return _findings(exp, is_variants)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(_findings, exp, is_variants).result()
        except BrokenProcessPool:
            raise CourseError(f"{exp.model} ended the program while it was checked.") from None


def _findings(exp: Experiment, is_variants: bool) -> tuple[str, bool]:
    info = DATASETS[exp.dataset]
    model = build_model(exp.model, len(info.classes), info.image_size, **exp.model_settings)
    findings = check_rules(exp, model, info.image_size, recorded_accuracy(exp) if is_variants else None)
    return findings_table(findings), all_passed(findings)
