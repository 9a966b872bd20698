"""A batch on a real Ray cluster of three nodes, which are processes on this machine; one is killed."""
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from course_utils.__main__ import main
from course_utils.errors import CourseError
from course_utils.reporting.record import commit, read_record
from course_utils.runner import cluster
from course_utils.utils import REPO

RAY = Path(sys.executable).with_name("ray")
SEEDS = range(6)


def start_node(*arguments):
    """A node of one raylet, which runs; the processes that it starts are its children."""
    environment = {key: value for key, value in os.environ.items() if key != "COURSE_DATA"}
    for _ in range(5):  # the head may not be ready yet
        node = subprocess.Popen([RAY, "start", "--block", "--disable-usage-stats", *arguments], env=environment,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda node=node: node.poll() is not None or has_raylet(node))
        time.sleep(3)
        if node.poll() is None:
            return node
    raise AssertionError(f"ray start {arguments} ended with {node.returncode}")


def has_raylet(node):
    return any(process.name() == "raylet" for process in psutil.Process(node.pid).children(recursive=True))


def kill_node(node):
    """As if its machine lost power: no process of it can do anything any more."""
    with contextlib.suppress(psutil.Error):
        for process in [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]:
            with contextlib.suppress(psutil.Error):
                process.kill()
    node.wait()


def running_notebooks(root):
    """Processes of the cluster's runs: papermill and kernels."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.info["cmdline"] or ())
            if "papermill" in command and process.environ().get("RAY_TEST") == str(root):
                found.append(process)
    return found


def wait_until(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.5)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_batch_survives_the_death_of_a_node(tmp_path, monkeypatch):
    pytest.importorskip("ray")
    import ray

    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    address, scratch = f"127.0.0.1:{port}", f"/tmp/ray-{port}"  # a socket's path may have 107 characters
    monkeypatch.setenv("RAY_TEST", str(tmp_path))
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")  # as on a private network
    nodes = [start_node("--head", f"--port={port}", "--node-ip-address=127.0.0.1", "--num-cpus=0",
                        "--include-dashboard=false", f"--temp-dir={scratch}")]
    try:
        nodes += [start_node(f"--address={address}", "--num-cpus=1") for _ in range(2)]
        assert all(node.poll() is None for node in nodes)
        batch = subprocess.Popen([sys.executable, "-m", "course_utils", "run", "gtsrb_stn:lenet", "--set", "epochs=1",
                                  "--seeds", ",".join(map(str, SEEDS)), "--executor", "ray", "--address", address,
                                  "--output", str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                 text=True)
        wait_until(lambda: running_notebooks(tmp_path) or batch.poll() is not None)
        assert batch.poll() is None, batch.stdout.read()
        time.sleep(3)
        victim = next(node for node in nodes[1:] if any(  # one that is at work
            process in psutil.Process(node.pid).children(recursive=True) for process in running_notebooks(tmp_path)))
        kill_node(victim)
        text, _ = batch.communicate(timeout=400)
        assert batch.returncode == 0, text
        folders = sorted((tmp_path / "gtsrb_stn").iterdir())
        assert len(folders) == len(SEEDS)  # none twice
        for seed, folder in zip(SEEDS, folders):
            record = read_record(folder / "record.json")
            assert record["experiment"]["seed"] == seed and record["sessions"][0]["commit"] == commit()
            assert json.loads((folder / "status.json").read_text())["state"] == "done"
            assert (folder / "01_gtsrb_stn.ipynb").is_file() and list((folder / "figures").glob("*.png"))
            assert not list(folder.glob("*.pt"))
        wait_until(lambda: not running_notebooks(tmp_path))
    finally:
        ray.shutdown()
        for node in nodes[::-1]:
            kill_node(node)
        shutil.rmtree(scratch, ignore_errors=True)


@pytest.mark.slow
def test_the_recipe_for_slurm_runs_on_its_local_executor(tmp_path):
    pytest.importorskip("submitit")
    text = (REPO / "docs" / "scaling.md").read_text()
    recipe = text.partition("```python\n")[2].partition("```")[0]
    assert len(recipe.splitlines()) <= 13
    first, _, rest = recipe.partition("\n")
    assert first == 'CLUSTER, PROFILE, SEEDS, OUTPUT = "slurm", "full", range(3), "outputs"'
    here = f'CLUSTER, PROFILE, SEEDS, OUTPUT = "local", "smoke", range(1), {str(tmp_path)!r}\n'
    done = subprocess.run([sys.executable, "-c", here + rest], capture_output=True, text=True, cwd=REPO)
    assert "[('done', '')]" in done.stdout, done.stderr[-2000:]
    folder, = (tmp_path / "cifar10_custom_resnet").iterdir()
    assert read_record(folder / "record.json")["experiment"]["profile"] == "smoke"


def test_without_ray_the_option_says_how_to_get_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["run", "gtsrb_stn:lenet", "--executor", "ray", "--output", str(tmp_path)]) == 2
    assert "pip install -e .[cluster]" in capsys.readouterr().err


def test_a_shared_folder_is_used_in_place_and_nothing_is_sent_back(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(cluster, "run_notebook", lambda *args: seen.append(args) or ("done", ""))
    assert cluster.run_task("nb", {}, tmp_path / "run", True, 1, {}, None) == ("done", "", b"")
    assert seen[0][1] == {"OUTPUT_DIR": str(tmp_path)} and seen[0][2] == tmp_path / "run"


def test_results_of_a_run_are_no_reason_for_another_try(monkeypatch, tmp_path):
    for state in ("failed", "diverged", "out of memory", "done"):
        monkeypatch.setattr(cluster, "run_notebook", lambda *args, state=state: (state, "why"))
        assert cluster.run_task("nb", {}, tmp_path / "run", False, 1, {}, None)[:2] == (state, "why")
    for state in ("killed", "timeout"):
        monkeypatch.setattr(cluster, "run_notebook", lambda *args, state=state: (state, "why"))
        with pytest.raises(cluster.LostRunError) as error:
            cluster.run_task("nb", {}, tmp_path / "run", False, 1, {}, None)
        assert error.value.args == (state, "why") and isinstance(error.value, CourseError)
