# Two commands:  make run  (the notebooks, headless, on synthetic data)  and  make test.
# Besides:  make browser  (notebooks in a real JupyterLab; needs a Chromium)  and  make site  (docs/_site/README.html).
PYTHON ?= python3
BIN := .venv/bin

run: .venv/installed
	$(BIN)/python -m course_utils run --restart --jobs 2

test: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/python -m pytest tests
	$(BIN)/python -m course_utils report --check
	$(BIN)/python -m pytest -p no:cacheprovider --nbval-lax --nbval-cell-timeout=600 --nbval-current-env notebooks assignments/*/solutions.ipynb

NOTEBOOKS ?= 01_gtsrb_stn
browser: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check playwright -c requirements.lock
	$(BIN)/python tests/notebooks/browser.py $(NOTEBOOKS)

# What is optional, so that its tests run too: Ray, Sphinx, nbgrader, TensorBoard.
extras: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .[cluster,site,grading,watching] -c requirements.lock

site: .venv/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .[site] -c requirements.lock
	$(BIN)/sphinx-build -q -W --keep-going -c docs . docs/_site

.venv/installed: requirements.txt requirements.lock pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -c requirements.lock
	touch $@

.PHONY: run test browser extras site
