"""Runs on a machine without internet and without git; README.md here says how."""
