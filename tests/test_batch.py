"""Batches of notebooks: what is done counts, what fails says how, and a second call runs only the rest."""
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import nbformat
import psutil
import pytest
from test_record import NAME, finished

from course_utils import batch, estimate, headless, live, processes, record, status
from course_utils.__main__ import main
from course_utils.errors import CourseError
from course_utils.experiment import load
from course_utils.files import REPO

PARAMETERS = """VARIANT: str = ""  # one
PROFILE: str = ""  # two
SEED: int = 0  # three
EPOCHS: int = None  # four
OUTPUT_DIR: str = None  # five"""
FATES = {1: "raise ValueError('too bad:\\nsee below')", 2: "os.kill(os.getpid(), 9)", 3: "time.sleep(60)",
         4: "raise Diverged('The loss is no longer a number in epoch 2.')",
         9: "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM)]; time.sleep(60)",
         5: "raise MemoryError('not that much')", 6: "raise SystemExit"}


@pytest.fixture
def course(tmp_path, monkeypatch):
    """A repository of one notebook that writes a record, but for the seeds that have another fate."""
    (tmp_path / "notebooks").mkdir()
    work = ["import os, shutil, signal, time", "from pathlib import Path", "from course_utils.errors import Diverged",
            "if Path('mended').exists():", "    pass"]
    for seed, fate in FATES.items():
        work += [f"elif SEED == {seed}:", f"    {fate}"]
    work.append("shutil.copy(f'records/{SEED}.json', f'{OUTPUT_DIR}/published-3epochs-seed{SEED}-sample/record.json')")
    work.append("print('whole')")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(PARAMETERS),
                                           nbformat.v4.new_code_cell("\n".join(work))])
    book.cells[0].metadata["tags"] = ["parameters"]
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(book, tmp_path / "notebooks" / "03_cifar10_custom_resnet.ipynb")
    (tmp_path / "records").mkdir()
    for seed in range(10):
        made = record.write(finished(seed, profile="smoke"), tmp_path / "records")
        made.rename(made.with_name(f"{seed}.json"))
    for module in (batch, headless):
        monkeypatch.setattr(module, "REPO", tmp_path)
    return tmp_path


def planned(course, *seeds):
    return batch.plan([load(NAME, profile="smoke", seed=seed, epochs=3) for seed in seeds], {"EPOCHS": 3},
                      course / "out put")


def executed(job):
    return job.folder / f"{job.notebook}.ipynb"


def test_eight_runs_four_of_them_ill_fated(course):
    """One raises, one's kernel is killed, one hangs, one diverges: eight right states; then only these run again."""
    jobs = planned(course, 0, 1, 2, 3, 4, 6, 7, 8)
    lines = []
    found = batch.Batch(jobs, [{}, {}], limit=8).run(lambda: lines.append(status.rows([job.folder for job in jobs])))
    assert [one.state for one in found] == ["done", "failed", "died", "hung", "diverged", "failed", "done", "done"]
    assert found[1].message == "ValueError: too bad:\nsee below"
    assert "died" in found[2].message.lower() and "timed out" in found[3].message
    assert found[4].message == "Diverged: The loss is no longer a number in epoch 2."
    assert found[0].accuracy == pytest.approx(0.7) and found[5].accuracy is None
    states = {row[2] for rows in lines for row in rows}
    assert {"waiting", "running", "done", "died"} <= states
    for job in (jobs[0], jobs[1]):
        text = executed(job).read_text()
        assert str(course) not in text and executed(job).with_suffix(".html").exists()
    assert "too bad" in executed(jobs[1]).read_text()

    (course / "mended").touch()
    again = planned(course, 0, 1, 2, 3, 4, 6, 7, 8)
    assert [job.done() for job in again] == [state == "done" for state in (one.state for one in found)]
    begun = jobs[0].status().begun
    assert {one.state for one in batch.Batch([job for job in again if not job.done()], [{}, {}]).run()} == {"done"}
    assert all(job.done() for job in again) and jobs[0].status().begun == begun
    again[0].begin_anew()
    assert not again[0].done() and again[0].status().state == "waiting"


def test_memory_that_is_not_there_has_its_own_state(course):
    found, = batch.Batch(planned(course, 5), [{}]).run()
    assert (found.state, found.message) == ("out of memory", "MemoryError: not that much")


def test_another_experiment_is_not_done(course):
    job, = planned(course, 0)
    batch.Batch([job], [{}]).run()
    other = batch.Job(job.exp.replace(lr=0.5), job.folder, job.parameters)
    assert job.done() and not other.done()


SCRIPT = """
import os, signal, sys
from pathlib import Path
from course_utils import batch, headless
from course_utils.experiment import load
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs are born deaf to it
batch.REPO = headless.REPO = Path(sys.argv[1])
runs = [load("cifar10_custom_resnet", profile="smoke", seed=seed, epochs=3) for seed in (9, 8)]
jobs = batch.plan(runs, {"EPOCHS": 3}, batch.REPO / "out put")
try:
    batch.Batch(jobs, [{}]).run(lambda: print(jobs[0].status().state, flush=True))
except KeyboardInterrupt:
    print(*(job.status().state for job in jobs))
"""


@contextlib.contextmanager
def interrupted(course, times):
    """A batch that gets Ctrl-C while its first kernel, deaf to signals, is at work; gives the lines it printed."""
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(course)], stdout=subprocess.PIPE, text=True,
                               stderr=subprocess.DEVNULL)
    begun = []
    for _ in process.stdout:
        begun = psutil.Process(process.pid).children(recursive=True)
        if any("ipykernel_launcher" in " ".join(child.cmdline()) for child in begun):
            break
    time.sleep(2)
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=40)
    _, alive = psutil.wait_procs(begun, timeout=2)
    assert len(begun) >= 2 and [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    yield out.splitlines()


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_an_interrupted_batch_ends_its_children_and_can_go_on(course):
    with interrupted(course, 1) as lines:
        assert lines[-1] == "waiting waiting"
    (course / "mended").touch()
    assert {one.state for one in batch.Batch(planned(course, 9, 8), [{}]).run()} == {"done"}


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_interrupted_twice_it_still_leaves_nothing_behind(course):
    """The second Ctrl-C comes while the first one's work is done."""
    with interrupted(course, 2):
        pass


def test_a_finished_run_of_another_experiment_is_not_overwritten(course):
    made = finished(0)
    folder = batch.plan([load(NAME, epochs=3)], {"EPOCHS": 3}, course / "out")[0].folder
    record.write(made, folder)
    with pytest.raises(CourseError, match=r"(?s)another experiment.*lr: None there, 0.5 asked for"):
        batch.plan([load(NAME, epochs=3, lr=0.5)], {"EPOCHS": 3}, course / "out")
    batch.plan([load(NAME, epochs=3, lr=0.5)], {"EPOCHS": 3}, course / "out", again=True)
    made["experiment"]["about"] = "said otherwise"
    record.write(made, folder)
    job, = batch.plan([load(NAME, epochs=3)], {"EPOCHS": 3}, course / "out")
    assert job.differs() == []


def test_where_another_process_is_at_work_nothing_starts(course):
    """As a second batch would find it, and what the kernel of a killed batch holds on to."""
    other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    who = [other.pid, psutil.Process(other.pid).create_time()]
    folder = planned(course, 0)[0].folder
    try:
        (folder / processes.LOCK).write_text(json.dumps(who))
        with pytest.raises(CourseError, match=f"Process {other.pid} is at work in"):
            planned(course, 0)
        with pytest.raises(CourseError, match="still open"):
            record.run_folder(load(NAME, profile="smoke", epochs=3), folder.parent)
        (folder / processes.LOCK).unlink()
        status.write_status(status.Status("a", "b", 0, 3, "waiting", process=who), folder)
        with pytest.raises(CourseError, match=f"Process {other.pid}"):
            planned(course, 0)
    finally:
        other.kill()
        other.wait()
    assert planned(course, 0)
    (folder / processes.LOCK).write_text(json.dumps(who))
    assert record.run_folder(load(NAME, profile="smoke", epochs=3), folder.parent) == folder  # taken over from the dead
    assert processes.at_work(folder) is None and (folder / processes.LOCK).exists()
    record.write(finished(0, profile="smoke"), folder)
    assert not (folder / processes.LOCK).exists()


def test_what_fails_outside_a_notebook_stops_no_other_run(course, monkeypatch):
    jobs = planned(course, 0, 7, 8)
    keep = headless._keep

    def full(output, folder, stopping):
        if "seed7" in folder.name:
            raise OSError(28, "No space left on device")
        return keep(output, folder, stopping)

    monkeypatch.setattr(headless, "_keep", full)
    monkeypatch.setattr("nbconvert.HTMLExporter", None)  # pages are a help: without them a run is as good
    found = batch.Batch(jobs, [{}]).run()
    assert [one.state for one in found] == ["done", "failed", "done"] and "No space left" in found[1].message


def test_a_killed_batch_has_died(tmp_path):
    gone = [processes.this_process()[0], 1.0]  # its number is taken again, by a process that began later
    for state, told in (("running", "died"), ("waiting", "waiting"), ("done", "done")):
        status.write_status(status.Status("a", "b", 0, 3, state, process=gone), tmp_path)
        assert status.read_status(tmp_path).state == told
    with pytest.raises(CourseError, match="Legal: died, diverged"):
        status.Status("a", "b", 0, 3, "finished")
    (tmp_path / "status.json").write_text('{"state": 1')
    assert status.read_status(tmp_path) is None


def test_progress_counts_all_stages(tmp_path):
    rows = [{"epoch": k, "val_accuracy": k / 10, "seconds": 2.0} for k in (1, 2)]
    status.note_progress(tmp_path, rows)
    (tmp_path / "stage2").mkdir()
    status.note_progress(tmp_path / "stage2", [{"epoch": 1, "test_accuracy": 0.9, "seconds": 5.0}])
    assert status.progress(tmp_path) == {"epoch": 3, "accuracy": 0.9, "seconds": 9.0}
    status.write_status(status.Status("a", "b", 0, 6, "running", begun=time.time() - 60,
                                      process=processes.this_process()), tmp_path)
    told = ["a", tmp_path.name, "running", "3/6", "90.00%", "1.0", "0.1"]
    assert live.table([tmp_path]).splitlines()[1].split() == told


def test_a_log_gets_a_line_whenever_something_changes(tmp_path, capsys):
    with live.board([tmp_path]) as tell:
        for state in ("waiting", "waiting", "running", "running"):
            status.write_status(status.Status("a", "b", 0, 6, state, process=processes.this_process()), tmp_path)
            tell()
    assert capsys.readouterr().out.splitlines() == [f"a  {tmp_path.name}  waiting", f"a  {tmp_path.name}  running  0/6"]


@pytest.mark.parametrize(("code", "error", "log", "state"), [
    (0, "", "", "done"),
    (None, "", "", "hung"),
    (-9, "", "[IPKernelApp] WARNING | Parent appears to have exited", "died"),
    (1, "", "x\nnbclient.exceptions.DeadKernelError: Kernel died", "died"),
    (1, "", "nbclient.exceptions.CellTimeoutError: A cell timed out while it was being executed, after 8 s", "hung"),
    (1, "", "nbclient.exceptions.CellTimeoutError: Timeout waiting for IOPub output", "failed"),
    (1, "RuntimeError: CUDA error: out of memory", "", "out of memory"),
    (1, "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: you tried", "", "out of memory"),
    (1, "OutOfMemoryError: CUDA out of memory.", "", "out of memory"),
    (1, "Diverged: The loss is no longer a number", "", "diverged"),
    (1, "CourseError: my_net.py, line 3, in forward:\n    y = x\nNameError: name 'x'", "KeyError: 1", "failed"),
    (1, "StopIteration: ", "", "failed"),
])
def test_what_a_notebook_left_says_what_became_of_it(code, error, log, state):
    found, words = headless._verdict(code, error, log)
    assert found == state and (words == error or not error)


def test_what_cannot_be_stops_before_anything_runs(tmp_path):
    smoke = load(NAME, profile="smoke")
    with pytest.raises(CourseError, match="Did you mean 'EPOCHS'"):
        batch.plan([smoke], {"EPOCH": 3}, tmp_path)
    with pytest.raises(CourseError, match="name each once"):
        batch.plan([smoke, smoke], {}, tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match="cannot be written"):
        batch.plan([smoke], {}, tmp_path / "file")


def test_the_cores_are_shared_out(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert batch.slots(3) == [{"OMP_NUM_THREADS": "2"}] * 3 and batch.slots() == [{}]
    threads = {"OMP_NUM_THREADS": "4"}
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert batch.slots(3) == [{"CUDA_VISIBLE_DEVICES": name} | threads for name in "01"]
    for listed in ("5,7", "5, 7", "5,7,-1,8"):  # what CUDA does not have, or what follows -1, it leaves out
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        assert batch.slots(3) == [{"CUDA_VISIBLE_DEVICES": name} | threads for name in "57"]


@pytest.mark.parametrize(("name", "value", "said"), [
    ("VARIANT", "publish", "Did you mean 'published'? Legal: published."),
    ("SEED", "one", "seed = 'one': must be int."),
])
def test_an_unlawful_value_stops_the_notebook_in_its_first_cells(tmp_path, name, value, said):
    """Given to papermill itself; our own runner would have refused it."""
    source, out = REPO / "notebooks" / "03_cifar10_custom_resnet.ipynb", tmp_path / "out.ipynb"
    ran = subprocess.run(headless._command(source, out, {name: value}, 60), capture_output=True, text=True)
    assert ran.returncode != 0 and said in headless._last_error(out.read_text())
    cells = [c for c in nbformat.read(out, 4).cells if c.cell_type == "code" and c.execution_count]
    assert len(cells) <= 4  # bootstrap, parameters, papermill's own, and the one that reads the experiment


@pytest.mark.parametrize(("words", "said"), [
    (["run", "cifar10"], "Unknown assignment: 'cifar10'"),
    (["run", "cifar10_custom_resnet:fast"], "published"),
    (["data", "mnist"], "cifar10"),
    (["adopt", "nowhere"], "no executed notebook"),
])
def test_wrong_words_are_answered_with_the_right_ones(words, said, capsys):
    assert main(words) == 2
    assert said in capsys.readouterr().err


def test_seeds_and_settings_reach_every_run(monkeypatch, capsys, tmp_path):
    asked = []

    class Noted(batch.Batch):
        def run(self, tell=None):
            for number, job in enumerate(self.jobs):
                asked.append((job.exp.variant, job.exp.seed, job.exp.split, job.exp.epochs, job.parameters["SPLIT"]))
                self._note(number, "done", accuracy=0.5)

    monkeypatch.setattr(batch, "Batch", Noted)
    monkeypatch.setattr(estimate, "estimates", lambda exps, _: [estimate.Estimate(1.0, "a guess") for _ in exps])
    words = ["run", "gtsrb_stn:lenet", "gtsrb_stn:best", "--profile", "full", "--seeds", "0,3"]
    assert main([*words, "--output", str(tmp_path), "--set", "split=random", "--set", "EPOCHS=7"]) == 0
    assert asked == [(v, s, "random", 7, "random") for v in ("lenet", "best") for s in (0, 3)]
    assert capsys.readouterr().out.count("50.00%") == 4
    assert main(["status", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("done") == 4
    assert main(["status", "--output", str(tmp_path / "none")]) == 0
    assert "No runs in" in capsys.readouterr().out
    for setting, told in (("seed=1", "--seeds"), ("output_dir=x", "--output"), ("data_dir=x", "COURSE_DATA")):
        assert main(["run", "gtsrb_stn", "--set", setting]) == 2
        assert told in capsys.readouterr().err
    assert main(["run", "gtsrb_stn", "--set", "split=tracks"]) == 2
    assert "Did you mean 'track'" in capsys.readouterr().err
    for words in (["--set", "split"], ["--jobs", "0"], ["--limit", "nan"], ["--seeds", "0-4"]):
        with pytest.raises(SystemExit):
            main(["run", *words])
