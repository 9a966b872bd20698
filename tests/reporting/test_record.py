"""Records: complete, without local names, checked when they are read; those of the first edition included."""
import copy
import dataclasses
import getpass
import json
import platform
import subprocess

import pytest
from helpers import file_size_limit, finished_record

from course_utils.config import ASSIGNMENTS, Experiment
from course_utils.errors import CourseError
from course_utils.reporting import record, summary_markdown, write_record
from course_utils.reporting.record import changed_settings, content_hash, is_full_length, read_record
from course_utils.utils import REPO

PUBLISHED = sorted(ASSIGNMENTS.glob("*/results/*.json"))


def test_record_is_read_as_it_was_written(tmp_path):
    made = finished_record()
    found = read_record(write_record(made, tmp_path))
    assert found.pop("sha256") == content_hash(made) and found == json.loads(json.dumps(made))
    assert len(list(map(int, found["final"]["predicted"].split()))) == 100
    assert made["final"]["accuracy"] == pytest.approx(0.7) and made["seconds"] == 180
    assert [path.name for path in tmp_path.iterdir()] == ["record.json"]


def test_record_contains_no_names_of_this_machine(tmp_path):
    text = write_record(finished_record(), tmp_path).read_text()
    assert str(REPO) not in text and platform.node() not in text and f'"{getpass.getuser()}"' not in text


@pytest.mark.parametrize(("edit", "message"), [
    (lambda r: r["final"].update(accuracy=0.91), "final accuracy"),
    (lambda r: r["history"][-1].update(test_accuracy=0.91), "last epoch's"),
    (lambda r: r["final"]["per_class"].update({next(iter(r["final"]["per_class"])): 1.0}), "classes'"),
    (lambda r: r["final"].update(predicted="1 2"), "its predictions and its images"),
    (lambda r: r["experiment"].update(select_epoch="best"), "not a complete record"),  # without validation accuracies
    (lambda r: r.update(seconds=1.0), "seconds"),
    (lambda r: r["history"].pop(0), "epochs"),
    (lambda r: r.pop("seconds"), "not a complete record: KeyError"),
    (lambda r: r.update(history=[]), "not a complete record: IndexError"),
    (lambda r: r.update(kept_epoch=1), "kept epoch"),
    (lambda r: r["final"]["class_images"].append(5), "not a complete record"),
    (lambda r: r.update(lr="0.1"), "numbers"),
    (lambda r: r["data"].update(title=5), "numbers"),
    (lambda r: r["history"][0].update(test_accuracy=3.0), "numbers"),
    (lambda r: r.update(validation={"accuracy": 7, "images": -1, "loss": 0.1}), "numbers"),
    (lambda r: r["experiment"].update(epochs="3"), "epochs = '3'"),
    (lambda r: r["experiment"].update(colors=3), "not a complete record: TypeError"),
    (lambda r: r.update(lr=float("nan")), "NaN is not a number"),
    (lambda r: r["history"][0].update(train_loss=float("inf")), "Infinity is not a number"),
])
def test_contradictory_record_is_refused(tmp_path, edit, message):
    made = copy.deepcopy(finished_record())
    edit(made)
    with pytest.raises(CourseError, match=message):
        read_record(write_record(made, tmp_path))


@pytest.mark.parametrize(("old", "new"), [('"train_loss": 1.0', '"train_loss": 0.9'), ('"lr": 0.01', '"lr": 0.02'),
                                          ("6573130", "6573131"), ('"predicted": "', '"predicted": "1')])
def test_edited_file_is_refused(tmp_path, old, new):
    path = write_record(finished_record(), tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(CourseError, match="edited or damaged"):
        read_record(path)
    path.write_text(json.dumps(json.loads(text)))  # another layout, the same content
    read_record(path)


@pytest.mark.parametrize("text", ["{", "[]", "3", "{}", '{"a": 1, "a": 1}', "[" * 200_000])
def test_other_files_are_refused(tmp_path, text):
    (tmp_path / "record.json").write_text(text)
    with pytest.raises(CourseError, match=r"record\.json"):
        read_record(tmp_path / "record.json")


@pytest.mark.parametrize(("name", "value"), [("machine", "another"), ("threads", -1), ("device", "cuda")])
def test_another_machine_or_a_gpu_may_classify_a_few_images_differently(tmp_path, name, value):
    made = copy.deepcopy(finished_record())
    made["history"][-1]["test_accuracy"] -= 0.003
    with pytest.raises(CourseError, match="last epoch's"):
        read_record(write_record(made, tmp_path))
    (made if name == "device" else made["evaluated"])[name] = value
    read_record(write_record(made, tmp_path))
    made["history"][-1]["test_accuracy"] -= 0.003
    with pytest.raises(CourseError, match="last epoch's"):
        read_record(write_record(made, tmp_path))


def test_commit_without_git_is_what_the_environment_says(tmp_path, monkeypatch):
    """Also where the package was unpacked inside of another repository."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    subprocess.run(["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-q",
                    "--allow-empty", "-m", "another"], check=True)
    (tmp_path / "course").mkdir()
    monkeypatch.setattr(record, "REPO", tmp_path / "course")
    monkeypatch.delenv("COURSE_COMMIT", raising=False)
    assert record.commit() is None
    monkeypatch.setenv("COURSE_COMMIT", "abc+")
    assert record.commit() == "abc+"
    monkeypatch.setattr(record, "REPO", tmp_path)  # a checkout of its own: git decides
    assert len(record.commit()) == 40
    (tmp_path / "file").touch()
    subprocess.run(["git", "-C", tmp_path, "add", "file"], check=True)
    assert len(record.commit()) == 41 and record.commit().endswith("+")  # a tracked file differs


def test_full_disk_keeps_the_old_record(tmp_path):
    old = write_record(finished_record(), tmp_path).read_bytes()
    with file_size_limit(1000), pytest.raises(CourseError, match=r"Could not write .*: File too large \(.* MB free\)"):
        write_record(finished_record(seed=1), tmp_path)
    assert (tmp_path / "record.json").read_bytes() == old and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_record_is_read_under_the_names_of_today(path):
    """Those of the first edition (format 1), unchanged on disk, and each still its variant's."""
    before = path.read_bytes()
    old, found = json.loads(before), read_record(path)
    assert found["experiment"].keys() <= {field.name for field in dataclasses.fields(Experiment)}
    assert not found["synthetic"] and changed_settings(found) == [] and path.read_bytes() == before
    if old["format"] == 1:
        for name, value in old["experiment"].items():
            assert found["experiment"][record.RENAMED.get(name, name)] == value
        assert found["validation"] == old["held_out"] and found["final"] == old["final"]


def test_first_edition_stages_and_synthetic_data_are_renamed(tmp_path):
    made = finished_record(profile="smoke")
    experiment = made["experiment"] | {"data": "sample", "stages": [{"epochs": 2, "test_side": 120, "passes": 3}]}
    experiment["keep"], experiment["test_views"] = experiment.pop("select_epoch"), experiment.pop("tta_views")
    first = {key: value for key, value in made.items() if key not in ("synthetic", "validation")}
    found = read_record(write_record(first | {"format": 1, "sample": True, "experiment": experiment}, tmp_path))
    assert found["synthetic"] and found["validation"] is None and found["experiment"]["data"] == "synthetic"
    assert found["experiment"]["stages"] == [{"epochs": 2, "test_image_size": 120, "passes_per_epoch": 3}]


def test_full_length_is_all_epochs_on_real_data():
    full, short = finished_record(epochs=24), finished_record(epochs=2)
    stopped = full | {"history": full["history"][:20]}  # early stopping is part of the variant
    assert is_full_length(full) and is_full_length(stopped)
    assert not is_full_length(short) and not is_full_length(full | {"synthetic": True})
    assert "after 24 epochs, " in summary_markdown(full)
    assert "after 20 epochs, stopped early of 24, " in summary_markdown(stopped)
    assert "after 2 epochs (its variant has 24), 2.0 minutes" in summary_markdown(short)
    short["experiment"]["variant"] = "gone"
    assert record.configured_epochs(short) is None and not is_full_length(short)
    assert "after 2 epochs, " in summary_markdown(short)


def test_summary_gives_the_numbers_of_the_record():
    made = finished_record(epochs=2)
    for words in ("seed 0", "70.00% (100 images, plain images)", "Peak learning rate 1.0e-02", "from 1.000 to 1.000",
                  f"the test loss is {made['final']['loss']:.3f}"):
        assert words in summary_markdown(made)
    assert "validation" not in summary_markdown(made)
    made["validation"] = {"accuracy": 0.5}
    text = "(random split); accuracy on plain validation images: 50.00%."
    assert f"Epoch 2 was the last {text}" in summary_markdown(made)
    made["experiment"]["select_epoch"] = "best"
    assert f"Epoch 2 was selected {text}" in summary_markdown(made)


def test_accuracy_over_several_views_is_no_contradiction(tmp_path):
    """The last epoch was evaluated on plain images."""
    made = finished_record()
    made["experiment"]["tta_views"] = 4
    made["history"][-1]["test_accuracy"] -= 0.02
    found = read_record(write_record(made, tmp_path))
    assert "mean of 4 augmented views and the plain image" in summary_markdown(found)
