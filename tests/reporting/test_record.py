import copy
import json

import numpy as np
import pytest

from course_utils import config as experiment
from course_utils.reporting import address, readme as report, record, tables
from course_utils.__main__ import main
from course_utils.data.datasets import open_dataset
from course_utils.errors import CourseError
from course_utils.evaluation.metrics import Prediction
from course_utils.variants import load_experiment
from course_utils.training.device import select_device
from course_utils.training.trainer import Training

NAME = "cifar10_custom_resnet"


def finished(seed=0, epochs=3, right=70, profile="full"):
    """A record as a run of 100 test images, ``right`` of them classified correctly, would leave it."""
    exp = load_experiment(NAME, profile=profile, seed=seed, epochs=epochs)
    data = open_dataset("cifar10", data="synthetic", train_images=20, test_images=100)
    if profile == "full":
        object.__setattr__(data, "is_synthetic", False)
    logits = np.eye(10, dtype=np.float32)[data.test_labels]
    logits[right:] = np.roll(logits[right:], 1, axis=1)
    prediction = Prediction(logits, data.test_labels)
    rows = [{"epoch": k, "lr": 0.1, "train_loss": 1.0, "train_accuracy": 0.5, "seconds": 60.0, "test_loss": 1.0,
             "test_accuracy": prediction.accuracy} for k in range(1, epochs + 1)]
    training = Training(rows, [{"from_epoch": 1, **record.origin()}])
    return record.make(exp, data, 0.01, 6_573_130, training, prediction, select_device("fp32"))


def test_there_and_back(tmp_path):
    made = finished()
    found = record.read(record.write(made, tmp_path))
    assert found.pop("sha256") == record.seal(made) and found == json.loads(json.dumps(made))
    assert list(map(int, found["final"]["predicted"].split()))[:3] and len(found["final"]["predicted"].split()) == 100
    assert made["final"]["accuracy"] == pytest.approx(0.7) and made["seconds"] == 180
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_in_words_every_number_is_the_records():
    text = record.summary_markdown(finished(epochs=2))
    for words in ("70.00% of 100 test images", "after 2 epochs (its variant asks for 24)", "2.0 minutes", "seed 0",
                  "loss ended at 1."):
        assert words in text


def test_a_run_says_how_much_of_its_variant_it_was():
    full, short = finished(epochs=24), finished(epochs=2)
    assert "after 24 epochs, " in record.summary_markdown(full)
    stopped = full | {"history": full["history"][:20]}
    assert "after 20 epochs, stopped early of 24, " in record.summary_markdown(stopped)
    assert (record.is_full_length(full), record.is_full_length(stopped), record.is_full_length(short)) == (True, True, False)
    assert not record.is_full_length(full | {"synthetic": True})
    short["experiment"]["variant"] = "gone"
    assert record.configured_epochs(short) is None and not record.is_full_length(short)
    assert "after 2 epochs, " in record.summary_markdown(short)


def test_it_holds_no_names_of_this_machine(tmp_path):
    import getpass
    import platform

    text = record.write(finished(), tmp_path).read_text()
    assert str(experiment.REPO) not in text and platform.node() not in text
    assert f'"{getpass.getuser()}"' not in text


@pytest.mark.parametrize(("edit", "said"), [
    (lambda r: r["final"].update(accuracy=0.91), "final accuracy"),
    (lambda r: r["history"][-1].update(test_accuracy=0.91), "last epoch's"),
    (lambda r: r["final"]["per_class"].update({"plain disc": 1.0}), "classes'"),
    (lambda r: r.update(seconds=1.0), "seconds"),
    (lambda r: r["history"].pop(0), "epochs"),
    (lambda r: r.pop("data"), "lacks data"),
    (lambda r: r.update(history=[]), "history is empty"),
])
def test_an_edited_record_is_refused(tmp_path, edit, said):
    made = copy.deepcopy(finished())
    edit(made)
    with pytest.raises(CourseError, match=said):
        record.read(record.write(made, tmp_path))


@pytest.mark.parametrize(("old", "new"), [('"train_loss": 1.0', '"train_loss": 0.9'), ('"lr": 0.01', '"lr": 0.02'),
                                          ("6573130", "6573131"), ('"predicted": "', '"predicted": "1')])
def test_a_changed_digit_in_a_file_is_found(tmp_path, old, new):
    path = record.write(finished(), tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CourseError, match="edited or damaged"):
        record.read(path)
    path.write_text(json.dumps(json.loads(text)))  # laid out otherwise, it says the same
    record.read(path)


def test_evaluated_on_another_machine_a_few_images_may_differ(tmp_path):
    made = copy.deepcopy(finished())
    made["history"][-1]["test_accuracy"] -= 0.003
    made["evaluated"]["machine"] = "another"
    record.read(record.write(made, tmp_path))
    made["history"][-1]["test_accuracy"] -= 0.003
    with pytest.raises(CourseError, match="last epoch's"):
        record.read(record.write(made, tmp_path))


def test_what_is_no_record_is_refused(tmp_path):
    for text in ("{", "[]", "3"):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(CourseError, match="record"):
            record.read(tmp_path / "record.json")


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CourseError, match="OUTPUT_DIR"):
        record.run_folder(load_experiment(NAME), tmp_path / "file" / "out")


def test_a_smoke_run_starts_afresh_and_a_full_one_goes_on(tmp_path):
    for profile, stays in (("full", True), ("smoke", False)):
        exp = load_experiment(NAME, profile=profile)
        kept = record.run_folder(exp, tmp_path) / "epoch-0001-ab.pt"
        kept.touch()
        assert record.run_folder(exp, tmp_path) == kept.parent
        assert kept.exists() is stays
    assert record.run_folder(load_experiment(NAME), tmp_path) != record.run_folder(load_experiment(NAME, seed=1), tmp_path)
    assert len(list(tmp_path.glob("*/*.pt"))) == 1  # a smoke run leaves the full run's checkpoint alone


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A copy of the READMEs and variants, without results."""
    for path in ("pyproject.toml", "README.md", f"assignments/{NAME}/README.md", f"assignments/{NAME}/variants.toml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text((experiment.REPO / path).read_text())
    for module in (experiment, record, report):
        monkeypatch.setattr(module, "ASSIGNMENTS", tmp_path / "assignments")
        monkeypatch.setattr(module, "REPO", tmp_path)
    monkeypatch.setattr(address, "REPO", tmp_path)
    return tmp_path


def run_in(folder, **settings):
    folder.mkdir()
    record.write(finished(**settings), folder)
    (folder / "figures").mkdir()
    (folder / "figures" / "curves.png").write_bytes(b"png")
    cell = {"cell_type": "code", "execution_count": 1, "outputs": [], "metadata": {"tags": ["injected-parameters"]},
            "source": ['DATA_DIR = "/home/me"\n', 'MODEL = "C:\\\\me"\n', "EPOCHS = 3"]}
    noted = {"output_path": "/home/me/x.ipynb", "parameters": {"DATA_DIR": "/home/me"}}
    (folder / "03.ipynb").write_text(json.dumps({"cells": [cell], "metadata": {"papermill": noted}}))
    return folder


def test_an_adopted_run_appears_in_the_readmes(house):
    for seed, right in ((0, 70), (1, 74)):
        name = report.adopt(run_in(house / f"run{seed}", seed=seed, right=right), house / f"run{seed}" / "03.ipynb")
    assert name == "published-3epochs-seed1"
    adopted = (house / "assignments" / NAME / "runs" / f"{name}.ipynb").read_text()
    assert "/home/me" not in adopted and "C:" not in adopted and "EPOCHS = 3" in adopted
    report.report()
    text = (house / "README.md").read_text()
    assert report.faults() == []
    assert "**72.00 ± 2.83 %** (2 seeds)" in text and "3 of 24, schedule made for 3" in text
    assert f"(assignments/{NAME}/runs/published-3epochs-seed1.ipynb)" in text
    own = (house / "assignments" / NAME / "README.md").read_text()
    assert "(runs/published-3epochs-seed0.ipynb)" in own
    assert f"../../images/{NAME}/published-3epochs-seed0-curves.png" in own
    assert report.report(check=True) == []


def test_a_changed_digit_is_found(house):
    report.adopt(run_in(house / "run"), house / "run" / "03.ipynb")
    report.report()
    path = house / "README.md"
    path.write_text(path.read_text().replace("70.00 %", "90.00 %"))
    assert report.report(check=True) == [path]
    assert "90.00 %" in path.read_text()  # a check writes nothing


def test_what_is_wrong_with_published_records_is_said(house, capsys, monkeypatch):
    name = report.adopt(run_in(house / "run"), house / "run" / "03.ipynb")
    report.report()
    assert main(["report", "--check"]) == 0
    path = house / "assignments" / NAME / "results" / f"{name}.json"
    sound = path.read_text()

    def check(said, code=1):
        assert main(["report", "--check"]) == code
        assert said in capsys.readouterr().err

    path.write_text(sound.replace('"train_loss": 1.0', '"train_loss": 1.1', 1))
    check("edited or damaged")
    assert main(["report"]) == 2 and main(["compare", str(path), str(path)]) == 2
    path.write_text(sound)
    toml = house / "assignments" / NAME / "variants.toml"
    before = toml.read_text()
    toml.write_text(before.replace("batch_size = 512", "batch_size = 256"))
    check("differs in batch_size.")
    toml.write_text(before)
    other = path.rename(path.with_name("published-24epochs-seed7.json"))
    check(f"is the record of {NAME}, {name}")
    check("lacks its executed notebook")
    other.rename(path)
    assert main(["report", "--check"]) == 0


@pytest.mark.parametrize(("key", "value"), [("execution_count", 3), ("outputs", [{"output_type": "error"}])])
def test_a_notebook_that_is_not_one_fresh_run_is_not_adopted(house, key, value):
    folder = run_in(house / "run")
    book = json.loads((folder / "03.ipynb").read_text())
    book["cells"][0][key] = value
    (folder / "03.ipynb").write_text(json.dumps(book))
    assert main(["adopt", str(folder)]) == 2
    (folder / "03.ipynb").write_text("{")
    with pytest.raises(CourseError, match="no notebook"):
        report.adopt(folder, folder / "03.ipynb")


def test_a_run_on_the_sample_is_no_result(house):
    folder = run_in(house / "run", profile="smoke", epochs=2)
    with pytest.raises(CourseError, match="synthetic"):
        report.adopt(folder, folder / "03.ipynb")


def test_a_run_with_overrides_is_not_its_variant(house):
    folder = run_in(house / "run")
    made = json.loads((folder / "record.json").read_text())
    made["experiment"]["batch_size"] = 64
    record.write(made, folder)
    with pytest.raises(CourseError, match=r"differs in batch_size\."):
        report.adopt(folder, folder / "03.ipynb")


def test_missing_markers_are_named(house):
    (house / "README.md").write_text("nothing")
    with pytest.raises(CourseError, match="markers"):
        report.report()


def test_the_readmes_are_what_the_records_give():
    assert report.report(check=True) == []


@pytest.mark.parametrize("assignment", experiment.list_assignments())
def test_a_notebook_shows_the_finished_runs_of_now(assignment):
    """Whoever adopts a run executes the notebook anew."""
    path = experiment.REPO / "notebooks" / f"{experiment.read_assignment(assignment)['notebook']}.ipynb"
    outputs = [output for cell in json.loads(path.read_text())["cells"] for output in cell.get("outputs", ())]
    shown = ["".join(output["data"]["text/markdown"]) for output in outputs
             if "text/markdown" in output.get("data", {})]
    assert tables.results_table(assignment, tables.WITHOUT_LINKS) in shown[0]


def test_a_mean_of_views_is_no_damage_and_is_said(tmp_path):
    """Its accuracy is not that of the last epoch, which was scored on plain images."""
    made = finished()
    made["experiment"]["tta_views"] = 4
    made["history"][-1]["test_accuracy"] -= 0.02
    assert "on the mean of 4 changed views and the plain test image" in record.summary_markdown(
        record.read(record.write(made, tmp_path)))


def test_of_several_stages_the_last_one_s_best_is_told():
    made = finished() | {"held_out": {"accuracy": 0.5}}
    assert "the best on held-out images" in record.summary_markdown(made)
    for row in made["history"]:
        row["stage"] = 2
    assert "the best of its last stage on held-out images" in record.summary_markdown(made)
