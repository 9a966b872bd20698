"""For a class: the student edition of a notebook, handing in a run, and grading what was handed in."""
