"""Speed: each script times the baseline and the course in turns, in one run."""
