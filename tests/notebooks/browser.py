"""Opens notebooks in a real JupyterLab in a headless Chromium, clicks "Run All Cells", and waits for their records.

    python tests/notebooks/browser.py 01_gtsrb_stn [02_cifar10_dilated_depthwise ...] [--screenshots DIR]

Needs the packages jupyter and playwright, and a Chromium (``chromium`` on the PATH, else $CHROMIUM).
Everything happens in a copy of the repository, since JupyterLab saves what it runs. Exit code 1 when a notebook leaves
no record, shows an error, or has a cell that did not run; the screenshots are for looking at.
"""
import argparse
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from course_utils.errors import CourseError
from course_utils.reporting.executed import check_fresh_run
from course_utils.runner.execute import RUN_FOLDER, kill_processes
from course_utils.utils import REPO

TIME_LIMIT = 900  # seconds for one notebook
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")
PLACES = (0.0, 0.35, 0.6, 0.8, 0.95)  # of the notebook, of which a screenshot is taken


def main() -> int:
    """Print one line per notebook."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("notebooks", nargs="+", metavar="NAME", help="without .ipynb")
    parser.add_argument("--screenshots", type=Path, default=REPO / "outputs" / "browser", metavar="DIR")
    args = parser.parse_args()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not chromium:
        print("No Chromium found: install it, or name it by $CHROMIUM.", file=sys.stderr)
        return 2
    args.screenshots.mkdir(parents=True, exist_ok=True)
    wrong = 0
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:
        course = Path(scratch, "course")
        tracked = subprocess.run(["git", "-C", REPO, "ls-files", "-co", "--exclude-standard"], capture_output=True,
                                 text=True, check=True).stdout.splitlines()
        for name in tracked:
            if (REPO / name).is_file():
                (course / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(REPO / name, course / name)
        with jupyter_lab(course) as address:
            for name in args.notebooks:
                started = time.time()
                fault = run_all(address, course, name, chromium, args.screenshots)
                print(f"{name}: {fault or 'record written, no error'}, {time.time() - started:.0f} s", flush=True)
                wrong += bool(fault)
    return 1 if wrong else 0


@contextlib.contextmanager
def jupyter_lab(root: Path) -> Iterator[str]:
    """The address of a server of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with (root / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyter", "lab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
             "--ServerApp.token=", "--ServerApp.password=", "--LabApp.news_url=", f"--ServerApp.root_dir={root}"],
            env={**os.environ, "PYTHONPATH": str(root), RUN_FOLDER: str(root)}, stdout=log, stderr=subprocess.STDOUT)
        try:
            for _ in range(120):
                with contextlib.suppress(OSError), urllib.request.urlopen(f"{address}/api/status", timeout=5):
                    break
                time.sleep(0.5)
            else:
                raise TimeoutError(f"JupyterLab did not start:\n{(root / 'lab.log').read_text()}")
            yield address
        finally:
            kill_processes(root)
            server.wait()


def run_all(address: str, course: Path, name: str, chromium: str, screenshots: Path) -> str:
    """What went wrong, or an empty string."""
    from playwright.sync_api import sync_playwright

    before = set(course.glob("outputs/**/record.json"))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=FLAGS)
        page = browser.new_page(viewport={"width": 1300, "height": 1000})
        page.goto(f"{address}/lab/workspaces/{name}/tree/notebooks/{name}.ipynb")
        page.wait_for_selector(".jp-Notebook", timeout=60_000)
        page.wait_for_selector("text=| Idle", timeout=60_000)  # in the status bar: the kernel is there
        page.wait_for_timeout(3000)
        page.get_by_text("Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        until = time.time() + TIME_LIMIT
        while set(course.glob("outputs/**/record.json")) == before and time.time() < until:
            page.wait_for_timeout(1000)
            if page.locator("[data-mime-type='application/vnd.jupyter.error']").count():
                break
        page.wait_for_timeout(1000)
        page.wait_for_selector("text=| Idle", timeout=120_000)  # the cells after the record have run too
        page.keyboard.press("Escape")
        page.keyboard.press("Control+s")
        for number, share in enumerate(PLACES):
            page.evaluate("f => {const e = document.querySelector('.jp-WindowedPanel-outer'); "
                          "e.scrollTop = e.scrollHeight * f}", share)
            page.wait_for_timeout(1500)
            page.screenshot(path=screenshots / f"{name}-{number}.png")
        browser.close()
    if set(course.glob("outputs/**/record.json")) == before:
        return "no record"
    return fault_of(course / "notebooks" / f"{name}.ipynb")


def fault_of(notebook: Path) -> str:
    """What is wrong with a saved notebook, or an empty string."""
    try:
        check_fresh_run(notebook)
    except CourseError as error:
        return str(error)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    wrong = [output for cell in cells for output in cell.get("outputs", ()) if output.get("name") == "stderr"]
    return f"{len(wrong)} warnings shown" if wrong else ""


if __name__ == "__main__":
    sys.exit(main())
