"""Records of runs, and the tables, READMEs and weights that are published with them."""
from course_utils.reporting.record import environment_info, make_record, write_record
from course_utils.reporting.run_folder import open_run_folder
from course_utils.reporting.tables import results_table, summary_markdown
from course_utils.reporting.weights import published_figures, published_training

__all__ = ["environment_info", "make_record", "open_run_folder", "published_figures", "published_training",
           "results_table", "summary_markdown", "write_record"]
