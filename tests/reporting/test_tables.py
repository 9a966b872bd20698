"""Tables are made from records alone: every number in them is one of theirs, or their mean."""
import json

import numpy as np
import pytest

from course_utils import config as experiment
from course_utils.analysis import rules as rubric
from course_utils.reporting import record, tables
from course_utils.data.datasets import open_dataset
from course_utils.evaluation.metrics import Prediction
from course_utils.variants import load_experiment
from course_utils.training.device import select_device
from course_utils.training.trainer import Training

NAME = "gtsrb_stn"


def prediction_of(labels, right):
    logits = np.eye(43, dtype=np.float32)[labels]
    logits[right:] = np.roll(logits[right:], 1, axis=1)
    return Prediction(logits, labels)


def resealed(path, old, new):
    """The record as if the run itself had written ``new``."""
    made = json.loads(path.read_text().replace(old, new))
    path.write_text(json.dumps(made | {"sha256": record.seal(made)}))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds on the track split, one on the random one; of 86 test and 43 held-out images so many are right."""
    data = open_dataset("gtsrb", data="synthetic", train_images=129, test_images=86)
    object.__setattr__(data, "is_synthetic", False)
    monkeypatch.setattr(record, "ASSIGNMENTS", tmp_path)
    (tmp_path / NAME / "results" / "new").mkdir(parents=True)
    for seed, split, right, held in ((0, "track", 43, 21), (1, "track", 86, 21), (0, "random", 43, 43)):
        exp = load_experiment(NAME, "lenet_stn", seed=seed, split=split, epochs=3)
        rows = [{"epoch": k, "lr": 0.1, "train_loss": 0.5, "train_accuracy": 0.75, "seconds": 30.0,
                 "val_loss": 0.25, "val_accuracy": 0.9 - abs(k - 2) / 10} for k in (1, 2, 3)]
        training = Training(rows, [{"from_epoch": 1, **record.origin()}], {"epoch": 2})
        made = record.make(exp, data, exp.lr, 73_763, training, prediction_of(data.test_labels, right),
                           select_device("fp32"), prediction_of(data.test_labels[:43], held))
        record.write(made, tmp_path / NAME / "results" / "new")
        (tmp_path / NAME / "results" / "new" / "record.json").rename(
            tmp_path / NAME / "results" / f"{record.run_name(exp)}.json")
    return tmp_path


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def test_one_row_for_each_split_with_the_mean_over_seeds(runs):
    head, _, random, track = cells(tables.results_table(NAME))
    assert all(len(row) == len(head) for row in (random, track))
    assert track[0] == "lenet_stn, track split" and "98.15 %" in track[1]
    assert track[2:6] == ["75.00 %, 0.500", "90.00 %, 0.250", "**75.00 ± 35.36 %** (2 seeds)", track[5]]
    assert "best kept: 2, 2" in track[6] and track[7] == "73,763" and track[8] == "2 min"
    assert random[4] == "**50.00 %** (1 seed)" and "lenet_stn-3epochs-random-seed0.ipynb" in random[-1]


def test_runs_are_compared_when_there_is_one_of_each(runs, monkeypatch):
    described = experiment.read_assignment(NAME)
    for wanted, found in ((("lenet_stn",), 3), (("lenet_stn", "lenet"), None), ((), None)):
        monkeypatch.setattr(tables, "describe", lambda _, wanted=wanted: described | {"compare": wanted})
        compared = tables.compared(NAME)
        assert {name: len(history) for name, history in compared.items()} == ({"lenet_stn": found} if found else {})


def test_the_accuracy_of_whole_runs_alone_counts_for_a_rule(runs):
    exp = load_experiment(NAME, "lenet_stn", epochs=3)
    assert rubric.recorded_accuracy(exp) == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert rubric.recorded_accuracy(load_experiment(NAME, "lenet_stn")) is None
    assert rubric.recorded_accuracy(load_experiment(NAME, "lenet", epochs=3)) is None


def test_what_the_held_out_pictures_promised(runs):
    _, _, random, track = cells(tables.split_table(NAME))
    assert random == ["lenet_stn", "random", "1", "100.00 %", "50.00 %", "+50.00 points"]
    assert track == ["lenet_stn", "track", "2", "48.84 ± 0.00 %", "75.00 ± 35.36 %", "-26.16 points"]


def test_without_runs_nothing_is_claimed(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ASSIGNMENTS", tmp_path)
    assert tables.results_table(NAME) == tables.split_table(NAME) == "_No run yet._"
    assert NAME in experiment.list_assignments()


def test_a_kept_epoch_that_is_not_the_best_is_refused(runs):
    path = next((runs / NAME / "results").glob("*random*.json"))
    resealed(path, '"kept_epoch": 2', '"kept_epoch": 3')
    with pytest.raises(experiment.CourseError, match="kept epoch"):
        record.read(path)


def test_in_words_the_held_out_pictures_are_told(runs):
    path = next((runs / NAME / "results").glob("*random*.json"))
    words = record.summary_markdown(record.read(path))
    assert "Epoch 2 was kept, the best on held-out images (random split); " in words
    assert "of these, without augmentation, it classifies 100.00% correctly." in words


def test_versions_are_told_by_their_differences(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ASSIGNMENTS", tmp_path)
    rows = {row[0]: row for row in cells(tables.versions_table("stl10_versions"))}
    assert rows["2.2-lenet"][1:3] == ["–", "–"] and rows["2.2-lenet"][4:] == ["70.31 % (validation)", "–", "–"]
    assert rows["2.2-step50"][1:3] == ["2.2-leaky", "step_epochs 50"]
    assert rows["2.2-leaky"][1:3] == ["2.2-custom", "model_settings slope 0.1"]
    assert rows["2.3"][2].split("<br>") == [
        "epochs 200; augmentation: random_resized_crop (size 80)",
        "stage 2: epochs 100; augmentation: resize (size 120), no random_resized_crop; test_image_size 120"]
    assert rows["2.5"][2] == ("model grouped_resnet; epochs 500; model_settings none; step_epochs 100"
                              "<br>stage 2: epochs 200; step_epochs 50")


def test_only_whole_runs_count_as_a_version(runs):
    rows = {row[0]: row for row in cells(tables.versions_table(NAME))}
    assert rows["lenet_stn"][5:] == ["–", "–"]
    for path in (runs / NAME / "results").glob("*track*.json"):
        resealed(path, '"epochs": 3', '"epochs": 30')
    rows = {row[0]: row for row in cells(tables.versions_table(NAME))}
    assert rows["lenet_stn"][5:] == ["48.84 ± 0.00 %", "75.00 ± 35.36 %"]
