"""The student edition, and handing in a run."""
import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from helpers import change_dataset, finished_record
from notebook_files import NOTEBOOKS
from safetensors import safe_open

from course_utils.analysis.answers import check_answer
from course_utils.classroom.grade import hidden_images
from course_utils.classroom.handout import make_handout, write_student_data
from course_utils.classroom.submission import submit
from course_utils.data import open_dataset, synthetic
from course_utils.data.prepare import write_prepared
from course_utils.errors import CourseError
from course_utils.reporting.record import write_record
from course_utils.runner.execute import run_notebook
from course_utils.training import checkpoint
from course_utils.utils import REPO
from course_utils.variants import file_hash, list_assignments


@pytest.mark.parametrize("name", list_assignments())
def test_the_student_edition_has_a_stub_for_each_solution_and_no_output(name, tmp_path):
    path = make_handout(name, tmp_path / "new")
    master, student = (nbformat.read(file, 4) for file in (REPO / "notebooks" / path.name, path))
    nbformat.validate(student)
    solved = [k for k, cell in enumerate(master.cells) if "BEGIN SOLUTION" in cell.source]
    assert solved and len(master.cells) == len(student.cells)
    for k, (before, after) in enumerate(zip(master.cells, student.cells)):
        if k in solved:
            assert "raise NotImplementedError(" in after.source and "SOLUTION" not in after.source
            assert before.source.partition("### BEGIN")[0] == after.source.partition("# Your code")[0]
            compile(after.source, "stub", "exec")
        else:
            assert before.source == after.source  # rules and checks among them
        assert not after.get("outputs") and after.get("execution_count") is None
    with pytest.raises(CourseError, match="exists already"):
        make_handout(name, tmp_path / "new")


def test_the_student_edition_runs_to_its_first_stub(tmp_path, monkeypatch):
    path = make_handout("cifar10_dilated_depthwise", tmp_path / "notebooks")
    monkeypatch.setattr("course_utils.runner.execute.REPO", tmp_path)
    parameters = {"OUTPUT_DIR": str(tmp_path / "out")}
    state, message = run_notebook(path.stem, parameters, tmp_path, 120, {}, threading.Event())
    assert state == "failed" and "NotImplementedError: Write this part" in message
    cells = [cell for cell in nbformat.read(tmp_path / path.name, 4).cells if cell.cell_type == "code"]
    stopped = next(k for k, cell in enumerate(cells) if any(o.output_type == "error" for o in cell.outputs))
    assert cells[stopped].id == "exercise-check"


def test_a_check_says_what_was_found_and_where_to_read():
    def half(x):
        return x / 2

    check_answer("halves", half, {(4,): 2.0, (3,): 1.5}, "section 1", "divide")
    with pytest.raises(CourseError) as error:
        check_answer("doubles", half, {(4,): 8.0}, "section 1", "add")
    assert str(error.value) == "Not yet: doubles.\nFound:  half(4) gives 2\nRead:   section 1\nHint:   add"
    with pytest.raises(CourseError, match=r"half\('a'\) gives TypeError"):
        check_answer("halves", half, {("a",): 8.0}, "section 1", "divide")
    with pytest.raises(CourseError, match="a tensor of shape"):
        check_answer("halves", half, {(torch.ones(2, 3),): torch.ones(3)}, "section 1", "divide")


@pytest.mark.slow
def test_nbgrader_takes_the_notebooks_as_they_are(tmp_path):
    pytest.importorskip("nbgrader")
    for path in NOTEBOOKS:
        target = tmp_path / "source" / "week" / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}  # it calls alembic
    done = subprocess.run([sys.executable, "-m", "nbgrader", "generate_assignment", "week", "--create",
                           "--CourseDirectory.course_id=course"],
                          cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    for path in NOTEBOOKS:
        text = (tmp_path / "release" / "week" / path.name).read_text()
        assert "NotImplementedError" in text and "BEGIN SOLUTION" not in text and "check_answer(" in text


def test_students_get_the_data_without_the_hidden_images(tmp_path, monkeypatch):
    arrays = synthetic.generate("cifar10", {"train": 40, "test": 40}, 0)
    change_dataset(monkeypatch, "cifar10", counts={"train": 40, "test": 40})
    write_prepared(tmp_path / "cifar10", arrays, tuple("abcdefghij"), "test")
    folder = write_student_data("cifar10", tmp_path / "students", b"secret", tmp_path)
    whole, part = (open_dataset("cifar10", root) for root in (tmp_path, folder.parent))
    hidden = hidden_images(whole.test_labels, whole.test_images, b"secret")
    assert np.array_equal(part.train_images, whole.train_images) and len(part.test_labels) == 40 - len(hidden)
    seen = {image.tobytes() for image in part.test_images}
    assert not seen & {image.tobytes() for image in whole.test_images[hidden]}
    assert "OTHER DATA" in part.title


def test_the_key_alone_decides_which_images_are_hidden():
    images = np.random.default_rng(0).integers(0, 256, (60, 4, 4, 3), dtype=np.uint8)
    labels = np.arange(60) % 3
    hidden = hidden_images(labels, images, b"one")
    assert np.bincount(labels[hidden]).tolist() == [10, 10, 10]
    assert np.array_equal(hidden, hidden_images(labels, images, b"one"))
    assert not np.array_equal(hidden, hidden_images(labels, images, b"two"))


def finished_run(folder, record):
    folder.mkdir()
    checkpoint.save_checkpoint(folder, 1, {"model": {"w": torch.ones(2)}, "best": None, "history": record["history"],
                                           "experiment": record["experiment"]})
    write_record(record, folder)
    return folder


def test_what_is_handed_in(tmp_path):
    run = finished_run(tmp_path / "run", finished_record())
    assert submit(run, tmp_path / "ann") == tmp_path / "ann"
    assert sorted(path.name for path in (tmp_path / "ann").iterdir()) == ["record.json", "weights.safetensors"]
    with safe_open(tmp_path / "ann" / "weights.safetensors", "pt") as file:
        card = file.metadata()
    assert card["assignment"] == "cifar10_custom_resnet" and json.loads(card["settings"]) == {}
    with pytest.raises(CourseError, match="exists already"):
        submit(run, tmp_path / "ann")
    for path in run.glob("epoch-*"):
        path.unlink()
    with pytest.raises(CourseError, match="no checkpoint"):
        submit(run, tmp_path / "bob")


def test_a_custom_network_is_handed_in_with_its_modules_and_unchanged(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "layers.py").write_text("x = 1\n")
    (tmp_path / "mine.py").write_text("from layers import x\n")
    record = finished_record()
    record["experiment"] |= {"model": "mine.py:Net", "model_file": file_hash("mine.py:Net")}
    run = finished_run(tmp_path / "run", record)
    submit(run, tmp_path / "ann")
    assert {"mine.py", "layers.py"} <= {path.name for path in (tmp_path / "ann").iterdir()}
    (tmp_path / "layers.py").write_text("x = 2\n")
    with pytest.raises(CourseError, match="was edited after the run"):
        submit(run, tmp_path / "bob")
