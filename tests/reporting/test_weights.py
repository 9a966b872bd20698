"""Published weights: they are those of their records, and what is done with them."""
import numpy as np
import PIL.Image
import pytest
import torch
from helpers import finished_record, real_root
from safetensors.torch import load_file, save_file

from course_utils.__main__ import main
from course_utils.config import ASSIGNMENTS
from course_utils.data import make_loaders, open_dataset
from course_utils.errors import CourseError
from course_utils.evaluation import average_predictions, predict
from course_utils.models import build_model
from course_utils.models.summary import count_parameters
from course_utils.reporting import weights
from course_utils.reporting.record import published_records
from course_utils.training import checkpoint
from course_utils.variants import load_experiment

PUBLISHED = sorted(ASSIGNMENTS.glob("*/weights/*.safetensors"))
SIGNS = ASSIGNMENTS / "gtsrb_stn" / "weights" / "lenet_stn-lean.safetensors"


@pytest.mark.parametrize("path", PUBLISHED, ids=lambda path: path.stem)
def test_published_weights_are_those_of_their_record(path):
    model, exp = weights.load_weights(path)
    card = weights.read_card(path)
    record = published_records(exp.assignment)[card["run"]]
    assert card["record"] == record["sha256"] and exp.variant == path.stem == record["experiment"]["variant"]
    assert count_parameters(model) == record["parameters"] and path.stat().st_size < weights.LARGEST
    training = weights.published_training(exp, model)
    assert training.history == record["history"] and not model.training


def test_published_weights_reach_their_accuracy():
    root = real_root("gtsrb")
    model, exp = weights.load_weights(SIGNS)
    loaders = make_loaders(exp, open_dataset("gtsrb", root))
    record = published_records("gtsrb_stn")[weights.read_card(SIGNS)["run"]]
    views = [predict(model, loaders.test), *(predict(model, loaders.tta, epoch=k) for k in range(1, exp.tta_views + 1))]
    assert len(views) == 9 and views[0].accuracy == pytest.approx(record["history"][-1]["test_accuracy"], abs=0.001)
    assert average_predictions(views).accuracy == pytest.approx(record["final"]["accuracy"], abs=0.001)


def test_weights_are_exported_from_the_last_stage_and_its_best_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "ASSIGNMENTS", tmp_path)
    record = finished_record() | {"sha256": "ab"}
    record["experiment"] |= {"stages": [{"epochs": 1}]}
    for stage, row in zip((1, 1, 2), record["history"]):
        row["stage"] = stage
    history = [{"train_loss": record["history"][-1]["train_loss"]}]
    first, best, last = ({"fc.weight": torch.full((2, 2), value)} for value in (1.0, 2.0, 3.0))
    checkpoint.save_checkpoint(tmp_path / "run", 2, {"model": first, "best": None})
    state = {"model": last, "best": {"epoch": 1, "model": best}}
    checkpoint.save_checkpoint(tmp_path / "run" / "stage2", 1, state | {"history": [{"train_loss": 9.0}]})
    with pytest.raises(CourseError, match="not the last of the run that its record describes"):
        weights.export_weights(tmp_path / "run", record, "name")
    checkpoint.save_checkpoint(tmp_path / "run" / "stage2", 2, state | {"history": history})
    path = weights.export_weights(tmp_path / "run", record, "name")
    assert torch.equal(load_file(path)["fc.weight"], best["fc.weight"])
    assert weights.read_card(path)["run"] == "name" and "test accuracy" in weights.read_card(path)["result"]
    assert load_file(path)["fc.weight"].dtype == torch.float32
    monkeypatch.setattr(weights, "HALVED", 15)
    halved = load_file(weights.export_weights(tmp_path / "run", record, "name"))["fc.weight"]
    assert halved.dtype == torch.float16 and torch.equal(halved.float(), best["fc.weight"])
    monkeypatch.setattr(weights, "LARGEST", 15)
    assert weights.export_weights(tmp_path / "run", record, "name") is None
    assert weights.export_weights(tmp_path / "empty", record, "name") is None


def test_missing_foreign_and_damaged_weights_are_refused(tmp_path, monkeypatch):
    exp = load_experiment("gtsrb_stn", "lenet", profile="evaluate")
    with pytest.raises(CourseError, match=r"Unknown published weights of gtsrb_stn: 'lenet'\. .*lenet_stn-lean"):
        weights.published_training(exp, build_model("lenet", 43))
    with pytest.raises(CourseError, match="is not a file of weights"):
        weights.load_weights(ASSIGNMENTS / "gtsrb_stn" / "variants.toml")
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(CourseError, match="has no card of this course"):
        weights.load_weights(tmp_path / "w.safetensors")
    save_file({"w": torch.zeros(1)}, tmp_path / "w.safetensors", {"assignment": "gtsrb_stn", "variant": "lenet"})
    with pytest.raises(CourseError, match="holds weights of another network"):
        weights.load_weights(tmp_path / "w.safetensors")
    for changes in ({"seed": 1}, {"lr": 5.0, "epochs": 2}, {"model": "vgg16"}):
        exp = load_experiment("gtsrb_stn", "lenet_stn-lean", "evaluate", **changes)
        with pytest.raises(CourseError, match=f"(?s)trained with other settings:.*{min(changes)}: found"):
            weights.published_training(exp, build_model(exp.model, 43))
    home = tmp_path / "gtsrb_stn" / "weights"
    home.mkdir(parents=True)
    card = weights.read_card(SIGNS) | {"record": "of another run"}
    save_file(load_file(SIGNS), home / SIGNS.name, card)
    monkeypatch.setattr(weights, "ASSIGNMENTS", tmp_path)
    exp = load_experiment("gtsrb_stn", "lenet_stn-lean", profile="evaluate")
    with pytest.raises(CourseError, match=r"is not of the published run .*: publish it again"):
        weights.published_training(exp, build_model("lenet_stn", 43))


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_the_class_of_a_picture_is_named_with_its_probability(tmp_path, mode, capsys, monkeypatch):
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 4), dtype=np.uint8)
    PIL.Image.fromarray(pixels).convert(mode).save(tmp_path / "sign.png")
    found = weights.predict_picture(SIGNS, tmp_path / "sign.png", tmp_path / "seen.png")
    assert len(found) == 3 and 1 >= found[0][1] >= found[1][1] >= found[2][1] >= 0 and (tmp_path / "seen.png").is_file()
    monkeypatch.setattr("course_utils.__main__.REPO", tmp_path)
    assert main(["predict", str(SIGNS), str(tmp_path / "sign.png")]) == 0
    out = capsys.readouterr().out
    assert f"{found[0][1]:6.1%}  {found[0][0]}\n" in out and "outputs/predict/sign.png" in out
    assert main(["predict", str(SIGNS), str(SIGNS)]) == 2 and "cannot be read as a picture" in capsys.readouterr().err


def test_published_figures_are_shown_with_their_result_or_said_to_be_missing():
    text, *images = weights.published_figures("gtsrb_stn", "lenet_stn-lean", ("straightened", "no such figure"))
    assert "From the published run `lenet_stn-lean-8epochs-random-seed0`" in text.data and len(images) == 1
    assert [shown.data for shown in weights.published_figures("gtsrb_stn", "none", ("curves",))] == [
        "_none has no published run yet._"]
