"""Tables: every number is one of a record, or a mean over records."""
import dataclasses
import json
import re
import shutil

import numpy as np
import pytest
import torch

from course_utils.data import DATASETS, open_dataset
from course_utils.errors import CourseError
from course_utils.evaluation.metrics import Prediction
from course_utils.reporting import record, tables
from course_utils.reporting.run_folder import run_name
from course_utils.training.trainer import Training
from course_utils.variants import load_experiment, read_assignment

NAME = "gtsrb_stn"


def prediction_of(labels, correct):
    logits = np.eye(43, dtype=np.float32)[labels]
    logits[correct:] = np.roll(logits[correct:], 1, axis=1)
    return Prediction(logits, labels)


def rewrite(path, old, new):
    """The record as if the run itself had written ``new``."""
    made = json.loads(path.read_text().replace(old, new))
    path.write_text(json.dumps(made | {"sha256": record.content_hash(made)}))


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two seeds on the track split, one on the random split: (correct of 86 test and of 43 validation images)."""
    data = open_dataset("gtsrb", data="synthetic", train_images=129, test_images=86)
    data = dataclasses.replace(data, is_synthetic=False, sha256=DATASETS["gtsrb"].sha256)
    monkeypatch.setattr(record, "ASSIGNMENTS", tmp_path)
    results = tmp_path / NAME / "results"
    results.mkdir(parents=True)
    for seed, split, correct, validated in ((0, "track", 43, 21), (1, "track", 86, 21), (0, "random", 43, 43)):
        exp = load_experiment(NAME, "lenet_stn", seed=seed, split=split, epochs=3)
        rows = [{"epoch": k, "lr": 0.1, "train_loss": 0.5, "train_accuracy": 0.75, "seconds": 30.0,
                 "val_loss": 0.25, "val_accuracy": 0.9 - abs(k - 2) / 10} for k in (1, 2, 3)]
        training = Training(rows, [{"from_epoch": 1, **record.environment_info()}], {"epoch": 2})
        made = record.make_record(exp, data, exp.lr, 73_763, training, prediction_of(data.test_labels, correct), "fp32",
                                  torch.device("cpu"), prediction_of(data.test_labels[:43], validated))
        record.write_record(made, results).rename(results / f"{run_name(exp)}.json")
    return tmp_path


def test_published_runs_are_in_the_order_of_their_seeds(runs):
    path = runs / NAME / "results" / "lenet_stn-3epochs-track-seed1.json"
    for seed in (10, 2):
        shutil.copy(path, path.with_name(f"lenet_stn-3epochs-track-seed{seed}.json"))
    names = [name for name in record.published_records(NAME) if "track" in name]
    assert [name.rpartition("seed")[2] for name in names] == ["0", "1", "2", "10"]


def cells(table):
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]


def make_full_length(runs):
    for path in (runs / NAME / "results").glob("*.json"):
        rewrite(path, '"epochs": 3', '"epochs": 30')


def test_results_have_one_row_per_split_with_the_mean_over_seeds(runs):
    assert tables.results_table(NAME) == "_No run yet._"  # shortened runs are a table of their own
    head, _, random, track = cells(tables.results_table(NAME, full_length=False))
    assert len(head) == 7 and all(len(row) == len(head) for row in (random, track))
    assert track[:4] == ["lenet_stn, track split", "98.15 %", "75.00 ± 35.36 % (2 seeds)", "48.84 %"]
    assert track[4].startswith("3 of 30, schedule scaled") and track[4].endswith("best epoch: 2, 2")
    assert track[5] == "90 s, CPU"
    assert random[2] == "50.00 % (1 seed)" and "lenet_stn-3epochs-random-seed0.ipynb" in random[-1]
    make_full_length(runs)
    full = cells(tables.results_table(NAME))
    assert full[3][2] == "**75.00 ± 35.36 %** (2 seeds)" and full[3][4].startswith("30 (seed 0 stopped after 3")
    assert cells(tables.results_table(NAME, links=False)) == [row[:-1] for row in full]
    assert tables.results_table(NAME, full_length=False) == "_No run yet._"


def test_provenance_has_size_losses_machine_data_and_commit(runs):
    _, _, random, track = cells(tables.provenance_table(NAME))
    assert track[:3] == ["lenet_stn, track split, 3 epochs", "73,763", "75.00 %, 0.500"]
    loss = record.read_record(next((runs / NAME / "results").glob("*random*")))["final"]["loss"]
    assert random[3] == f"{loss:.3f}" and random[4].endswith(", fp32") and random[5].startswith("GTSRB, synthetic `")
    assert len(random) == 7


def test_splits_compare_validation_with_test(runs):
    _, _, random, track = cells(tables.split_table(NAME))
    assert random == ["lenet_stn", "random", "1", "100.00 %", "50.00 %", "+50.00 points"]
    assert track == ["lenet_stn", "track", "2", "48.84 ± 0.00 %", "75.00 ± 35.36 %", "-26.16 points"]


@pytest.mark.parametrize(("wanted", "epochs"), [(("lenet_stn",), 3), (("lenet_stn", "lenet"), None), ((), None)])
def test_runs_are_compared_when_each_exists_at_full_length(runs, monkeypatch, wanted, epochs):
    about = read_assignment(NAME) | {"compare": wanted}
    monkeypatch.setattr(tables, "read_assignment", lambda _: about)
    assert tables.compared_histories(NAME) == {}
    make_full_length(runs)
    found = {name: len(history) for name, history in tables.compared_histories(NAME).items()}
    assert found == ({"lenet_stn": epochs} if epochs else {})


def test_recorded_accuracy_is_of_runs_with_the_same_epochs(runs):
    exp = load_experiment(NAME, "lenet_stn", epochs=3)
    assert tables.recorded_accuracy(exp) == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert tables.recorded_accuracy(load_experiment(NAME, "lenet_stn")) is None
    assert tables.recorded_accuracy(load_experiment(NAME, "lenet", epochs=3)) is None


def test_without_runs_there_is_no_table(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ASSIGNMENTS", tmp_path)
    assert {make(NAME) for make in (tables.results_table, tables.split_table, tables.provenance_table)} == {
        "_No run yet._"}


def test_selected_epoch_that_is_not_the_best_is_refused(runs):
    path = next((runs / NAME / "results").glob("*random*.json"))
    assert "Epoch 2 was selected (random split)" in tables.summary_markdown(record.read_record(path))
    rewrite(path, '"kept_epoch": 2', '"kept_epoch": 3')
    with pytest.raises(CourseError, match="kept epoch"):
        record.read_record(path)


def test_published_synthetic_run_is_refused(runs):
    path = next((runs / NAME / "results").glob("*random*.json"))
    rewrite(path, '"synthetic": false', '"synthetic": true')
    with pytest.raises(CourseError, match="synthetic data: not a result"):
        tables.results_table(NAME)


def test_versions_are_described_by_their_differences(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ASSIGNMENTS", tmp_path)
    rows = {row[0]: row for row in cells(tables.versions_table("stl10_versions"))}
    first = ["2.2-lenet", "–", "LE-NET, wider than LeNet-5, up to 2 M parameters", "70.31 % (validation)", "–"]
    assert rows["2.2-lenet"] == first
    assert rows["2.2-step50"][1:3] == ["2.2-leaky", "step_epochs 50"]
    assert rows["2.2-leaky"][1:3] == ["2.2-custom", "model_settings slope 0.1"]
    assert rows["2.3"][2].split("<br>") == [
        "epochs 200; augmentation: random_resized_crop (size 80)",
        "stage 2: epochs 100; augmentation: resize (size 120), no random_resized_crop; test_image_size 120"]
    assert rows["2.5"][2] == ("model grouped_resnet; epochs 500; model_settings default; step_epochs 100"
                              "<br>stage 2: epochs 200; step_epochs 50")


def test_only_full_runs_count_as_a_version(runs):
    def results():
        return {row[0]: row[4] for row in cells(tables.versions_table(NAME))}["lenet_stn"]

    assert results() == "–"
    make_full_length(runs)
    assert results() == "48.84 ± 0.00 %, test 75.00 ± 35.36 %"


@pytest.mark.parametrize("raw", ["a | b", "<!-- end of results -->", "x\n| y |", "**bold** `code` [link](there)", "\\"])
def test_text_of_records_is_no_markup(runs, raw):
    """A machine's name could end the table, or the block in a README."""
    for path in (runs / NAME / "results").glob("*.json"):
        made = json.loads(path.read_text())
        made["sessions"][-1]["machine"] = raw
        path.write_text(json.dumps(made | {"sha256": record.content_hash(made)}))
    table = tables.provenance_table(NAME)
    head, _, *rows = (re.split(r"(?<!\\)\|", line) for line in table.splitlines())
    assert {len(row) for row in rows} == {len(head)} and len(rows) == 2 and "<!--" not in table.replace("\\<", "")
    cell = rows[0][5].replace("<br>", "").rpartition(",")[0].removeprefix(" ")
    assert re.sub(r"\\(.)", r"\1", cell) == " ".join(raw.split())


def test_mirrored_classes_are_compared_with_and_without_flips():
    """The published runs: of the eight classes that mirror each other, and of all others."""
    rows = {row[0]: row[1:] for row in cells(tables.mirror_table(NAME))[2:]}
    assert len(rows) == 10 and {"keep left", "turn right ahead", "dangerous curve to the left"} <= rows.keys()
    for variant, column in (("lenet-lean", 0), ("lenet-flips", 1)):
        found = [run["final"]["per_class"]["keep left"] for run in record.published_records(NAME).values()
                 if run["experiment"]["variant"] == variant]
        assert len(found) == 3 and rows["keep left"][column].startswith(f"{100 * np.mean(found):.1f} ± ")
