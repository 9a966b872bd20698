import nbformat
import pytest

from course_utils import batch
from course_utils.__main__ import main
from course_utils.errors import CourseError
from course_utils.experiment import load
from course_utils.files import REPO


def notebook(path, *cells):
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    book.cells[0].metadata["tags"] = ["parameters"]
    book.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    nbformat.write(book, path)
    return path


def test_a_notebook_runs_and_forgets_its_paths(tmp_path):
    source = notebook(tmp_path / "book.ipynb", "a: int = 1", "print(a + 1)")
    assert batch._papermill(source, tmp_path / "out.ipynb", {"a": 41}, "smoke") is None
    text = (tmp_path / "out.ipynb").read_text()
    assert "42" in text and str(tmp_path) not in text


def test_an_error_is_told_in_its_own_words(tmp_path):
    source = notebook(tmp_path / "book.ipynb", "a: int = 1", "raise ValueError('too bad:\\nsee below')")
    assert batch._papermill(source, tmp_path / "out.ipynb", {}, "smoke") == "ValueError: too bad:\nsee below"


def test_a_quoted_error_does_not_hide_who_quotes_it():
    told = "CourseError: my_net.py, line 3, in forward:\n    y = x\nNameError: name 'x'"
    assert batch._first_words(f"Traceback ...\nKeyError: 'x'\n\n{told}\n") == told


def test_success_without_a_record_is_not_done(tmp_path, monkeypatch):
    monkeypatch.setattr(batch, "REPO", tmp_path)
    (tmp_path / "notebooks").mkdir()
    notebook(tmp_path / "notebooks" / "03_cifar10_custom_resnet.ipynb",
             "VARIANT: str = ''\nPROFILE: str = ''\nSEED: int = 0\nOUTPUT_DIR: str = None")
    outcome = batch.run(load("cifar10_custom_resnet", profile="smoke"), output_dir=tmp_path / "out")
    assert not outcome.done and "no record" in outcome.status
    assert "failed" in batch.show([outcome]) and outcome.executed.exists()


def test_an_unknown_parameter_stops_before_anything_runs():
    with pytest.raises(CourseError, match="Did you mean 'EPOCHS'"):
        batch.run(load("cifar10_custom_resnet", profile="smoke"), {"EPOCH": 3})


@pytest.mark.parametrize(("name", "value", "said"), [
    ("VARIANT", "publish", "Did you mean 'published'? Legal: published."),
    ("SEED", "one", "seed = 'one': must be int."),
])
def test_an_unlawful_value_stops_the_notebook_in_its_first_cells(tmp_path, name, value, said):
    source = REPO / "notebooks" / "03_cifar10_custom_resnet.ipynb"
    assert said in batch._papermill(source, tmp_path / "out.ipynb", {name: value}, "smoke")
    ran = [c for c in nbformat.read(tmp_path / "out.ipynb", 4).cells if c.cell_type == "code" and c.execution_count]
    assert len(ran) <= 4  # bootstrap, parameters, papermill's own, and the one that reads the experiment


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

    def note(exp, parameters):
        asked.append((exp.variant, exp.seed, exp.split, exp.epochs, parameters))
        return batch.Outcome("01", exp.variant, "done", 0.5, 1.0, tmp_path)

    monkeypatch.setattr(batch, "run", note)
    words = ["run", "gtsrb_stn:lenet", "gtsrb_stn:best", "--profile", "full", "--seeds", "0,3"]
    assert main([*words, "--set", "split=random", "--set", "EPOCHS=7"]) == 0
    settings = {"SPLIT": "random", "EPOCHS": 7}
    assert asked == [(v, s, "random", 7, settings) for v in ("lenet", "best") for s in (0, 3)]
    assert main(["run", "gtsrb_stn", "--set", "split=tracks"]) == 2
    assert "Did you mean 'track'" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "--set", "split"])
