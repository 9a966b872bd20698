"""Records of runs, and the tables and READMEs that are written from them."""
from course_utils.reporting.record import environment_info, make_record, write_record
from course_utils.reporting.run_folder import open_run_folder
from course_utils.reporting.tables import results_table, summary_markdown

__all__ = ["environment_info", "make_record", "open_run_folder", "results_table", "summary_markdown", "write_record"]
