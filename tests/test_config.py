"""Experiments: what variants.toml means, and that nothing invalid gets through."""
import dataclasses
import json

import pytest
import torch

from course_utils import variants
from course_utils.augment.pipeline import build_steps
from course_utils.config import PROFILES, config_differences, total_epochs
from course_utils.data import DATASETS
from course_utils.errors import CourseError
from course_utils.models import build_model
from course_utils.utils import REPO
from course_utils.variants import experiment_table, list_assignments, load_experiment, read_assignment

NAME = "cifar10_custom_resnet"
HEAD = 'title = "t"\nnotebook = "01_x"\n[smoke]\nepochs = 1\n'
BASE = HEAD + '[variant.a]\nabout = "a"\ndataset = "cifar10"\nmodel = "m"\nepochs = 3\nbatch_size = 4\nlr = 0.1\n'


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("assignment", list_assignments())
def test_every_variant_is_valid(assignment, profile):
    for variant in read_assignment(assignment)["variants"]:
        exp = load_experiment(assignment, variant, profile)
        assert exp.data == ("synthetic" if profile == "smoke" else "real")
        for stage in exp.all_stages:
            build_steps(stage.augmentation)
        if profile == "full":
            info = DATASETS[exp.dataset]
            build_model(exp.model, len(info.classes), info.image_size, **exp.model_settings)
        for epochs in (1, 3, 10, 50):
            assert load_experiment(assignment, variant, profile, epochs=epochs).epochs == epochs


def test_published_settings_and_their_table():
    exp = load_experiment(NAME)
    assert (exp.epochs, exp.batch_size, exp.optimizer) == (24, 512, "adam")
    assert (exp.schedule, exp.peak_epoch) == ("one_cycle", 5)
    assert [step.name for step in exp.augmentation] == ["horizontal_flip", "shift_scale_rotate", "coarse_dropout"]
    table = experiment_table(exp)
    assert "\n                     coarse_dropout (p 0.5, size 16)\n" in table and "* " not in table
    assert "  peak_epoch         5\n" in table and "lr                 from the LR range test\n" in table
    assert not any(name in table for name in ("nesterov", "step_epochs", "split", "None", "model_file"))


def test_table_of_settings_marks_what_differs_from_the_variant():
    lines = experiment_table(load_experiment(NAME, profile="smoke", label_smoothing=0.12345, seed=3)).splitlines()
    marked = {line.split()[1]: line.split()[2] for line in lines if line.startswith("*")}
    smoke = read_assignment(NAME)["smoke"]
    assert marked.keys() == smoke.keys() - {"lr_finder_steps"} | {"profile", "seed", "label_smoothing", "peak_epoch"}
    assert (marked["label_smoothing"], marked["peak_epoch"]) == ("0.1235", "0.4167")


def test_experiments_are_frozen_and_compare_by_value():
    exp = load_experiment(NAME)
    with pytest.raises(dataclasses.FrozenInstanceError):
        exp.epochs = 3
    assert exp == load_experiment(NAME) and exp.as_dict() == load_experiment(NAME).as_dict()
    settings, other = exp.as_dict(), load_experiment(NAME, seed=1).as_dict()
    assert config_differences(settings, other) == [("seed", 0, 1)]
    # A setting that an older record does not know has its default; its description and network file do not count.
    older = {key: value for key, value in settings.items() if key not in ("tta_views", "model_file")} | {"about": "x"}
    assert config_differences(settings | {"model_file": "ab"}, older) == []
    assert config_differences(settings | {"tta_views": 2}, older) == [("tta_views", 2, 0)]


def test_epochs_scale_the_schedule():
    assert load_experiment(NAME, epochs=12).peak_epoch == 2.5
    assert load_experiment(NAME).replace(epochs=12, peak_epoch=4).peak_epoch == 4
    scaled = load_experiment("stl10_versions", "2.3", epochs=20)  # stages of 200 and 100 epochs
    assert [(stage.epochs, stage.step_epochs) for stage in scaled.all_stages] == [(20, 5), (10, 5)]
    assert scaled.all_epochs == total_epochs(scaled.as_dict()) == 30


@pytest.mark.parametrize(("changes", "message"), [
    ({"variant": "publsihed"}, "Did you mean 'published'"),
    ({"profile": "fast"}, "evaluate, full, mini, smoke"),
    ({"epochs": 0}, "greater than 0"),
    ({"epochs": 2.5}, "must be int"),
    ({"epochs": True}, "must be int"),
    ({"seed": -1}, "between 0 and"),
    ({"lr": "high"}, "must be float or None"),
    ({"lr": float("nan")}, "greater than 0"),
    ({"lr": 10**400}, "must be float or None"),
    ({"optimizer": "adamw"}, "adam, sgd"),
    ({"engine": "kornia"}, "albumentations, torch"),
    ({"warmup": 3}, "Unknown setting: 'warmup'"),
    ({"select_epoch": "best"}, "holdout"),
    ({"patience": 3}, "holdout"),
    ({"peak_epoch": 24}, "between 0 and epochs"),
    ({"stages": ({"seed": 1},)}, "Unknown setting of a stage: 'seed'"),
    ({"epochs": 10**12}, "at most 1,000,000"),
    ({"epochs": 10**400}, "at most 1,000,000"),
    ({"batch_size": 1}, "at least 2"),
    ({"optimizer": "sgd", "nesterov": True, "momentum": 0.0}, "nesterov = True needs momentum"),
    ({"batch_size": 10**12}, "at most 1,000,000"),
    ({"stages": ({"lr": float("nan")},)}, "greater than 0"),
    *(({name: 5}, f"{name} = 5: must be a ") for name in ("augmentation", "expansion", "stages", "model_settings")),
])
def test_invalid_settings_are_rejected(changes, message):
    with pytest.raises(CourseError, match=message):
        load_experiment(NAME, **changes)


def write_variants(tmp_path, monkeypatch, text):
    (tmp_path / "made_up").mkdir()
    (tmp_path / "made_up" / "variants.toml").write_text(text)
    monkeypatch.setattr(variants, "ASSIGNMENTS", tmp_path)


@pytest.mark.parametrize(("text", "message"), [
    ("variant = [", r"variants\.toml"),
    ('title = "t"\n[variant.a]\nabout = "x"', "has no notebook, smoke"),
    ("colors = 1\n" + BASE, "Unknown key: 'colors'"),
    ('compare = "a"\n' + BASE, "must be a list"),
    (BASE + "epoch = 3", "Unknown setting of made_up:a: 'epoch'"),
    (BASE + "augmentation = [{p = 0.5}]", "has no name"),
    (BASE + "augmentation = 5", "augmentation = 5: must be a list of transforms"),
    (BASE + "augmentation = [5]", "augmentation step 5 has no name"),
    (BASE + "stages = [5]", "must be a list of tables"),
    (BASE + 'stages = "two"', "must be a list of tables"),
    *((BASE.replace("[variant.a]", f"[variant.'{name}']"), f"variant '{name}': a name has letters")
      for name in ("../x", "a/b", ".hidden", "a b", "-x")),
    (BASE + "rules = 2026-01-01", "not JSON serializable"),
    (HEAD + '[variant.a]\nabout = "x"', "lacks a setting"),
    (BASE.replace("[variant.a]", '[variant.a]\nextends = "z"'), "Legal: a"),
    (BASE.replace("[variant.a]", '[variant.a]\nextends = "b"') + '[variant.b]\nextends = "a"', "circle"),
])
def test_invalid_file_is_rejected(tmp_path, monkeypatch, text, message):
    write_variants(tmp_path, monkeypatch, text)
    with pytest.raises(CourseError, match=message):
        load_experiment("made_up")


def test_variant_extends_another(tmp_path, monkeypatch):
    write_variants(tmp_path, monkeypatch,
                   BASE + '[variant.b]\nextends = "a"\nlr = 0.2\n[variant.c]\nextends = "b"\nepochs = 7\n')
    exp = load_experiment("made_up", "c")
    assert (exp.model, exp.lr, exp.epochs, exp.variant) == ("m", 0.2, 7, "c")


def test_stl10_versions_are_those_of_the_development_log():
    """In literal values: network, batch, passes; by stage epochs, epochs until the rate falls, size of the test
    images, and the step that makes the size.
    """
    first = ("affine", 1.0, {"rotate": 45})
    colors = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.3}
    last = [("horizontal_flip", 0.5, {}), ("color_matrix", 1.0, colors)]
    crop, whole = "random_resized_crop", ("resize", 120)
    for name, model, settings, batch, passes, *wanted in (
            ("2.2-lenet", "lenet_wide", {}, 64, 10, (500, 100, None, (crop, 96))),
            ("2.2-custom", "custom_net", {}, 128, 20, (500, 100, None, (crop, 96))),
            ("2.2-linear", "custom_net", {"logit_activation": False}, 128, 20, (500, 100, None, (crop, 96))),
            ("2.2-leaky", "custom_net", {"slope": 0.1}, 128, 20, (500, 100, None, (crop, 96))),
            ("2.2-step50", "custom_net", {"slope": 0.1}, 128, 20, (500, 50, None, (crop, 96))),
            ("2.3", "custom_net", {"slope": 0.1}, 128, 20, (200, 50, None, (crop, 80)), (100, 50, 120, whole)),
            ("2.4", "custom_net_256", {"slope": 0.1}, 256, 20, (120, 30, None, (crop, 70)), (80, 20, 120, whole)),
            ("2.5", "grouped_resnet", {}, 256, 20, (500, 100, None, (crop, 70)), (200, 50, 120, whole))):
        exp = load_experiment("stl10_versions", name)
        assert (exp.model, exp.model_settings, exp.batch_size, exp.passes_per_epoch) == (model, settings, batch, passes)
        assert (exp.holdout, exp.select_epoch, len(exp.all_stages)) == (0.2, "best", len(wanted))
        for stage, (*lengths, (step, size)) in zip(exp.all_stages, wanted):
            assert [stage.epochs, stage.step_epochs, stage.test_image_size] == lengths
            steps = [(change.name, change.p, change.settings) for change in stage.augmentation]
            assert steps == [first, (step, 1.0, {"size": size}), *last]
            assert (stage.optimizer, stage.lr, stage.weight_decay, stage.step_gamma) == ("adam", 0.001, 0.0001, 0.1)


def test_default_variant_and_a_number_as_its_name():
    assert load_experiment("stl10_versions", 2.3) == load_experiment("stl10_versions", "2.3")  # from papermill -p
    assert load_experiment("stl10_versions").variant == "2.5" and load_experiment("gtsrb_stn").variant == "lenet_stn"


@pytest.mark.parametrize("name", ["cifar10_custom_resnet/", "./cifar10_custom_resnet", "../assignments/gtsrb_stn", 5])
def test_the_name_of_an_assignment_is_no_path(name):
    with pytest.raises(CourseError, match="Unknown assignment"):
        load_experiment(name)


@pytest.mark.parametrize(("settings", "message"), [
    ("l1=0", "must be a table"), ([1], "must be a table"), ({"epochs": 3}, "epochs is the parameter EPOCHS"),
    ({"seed": 1}, "seed is the parameter SEED")])
def test_settings_are_a_table_without_parameters(settings, message):
    names = dict.fromkeys(variants.PARAMETERS - {"SPLIT"}, None)
    variants.refuse_misspelt_parameters(names | {"SETTINGS": {"l1": 0.0, "split": "track"}})
    with pytest.raises(CourseError, match=message):
        variants.refuse_misspelt_parameters(names | {"SETTINGS": settings})


@pytest.mark.parametrize(("name", "value", "meant"), [
    ("epochs", 2, "EPOCHS"), ("Epochs", 2, "EPOCHS"), ("EPOCH", 2, "EPOCHS"), ("variant", "net", "VARIANT"),
    ("BATCHSIZE", 4, "BATCH_SIZE"), ("seeds", [1], "SEED"), ("precison", "fp32", "PRECISION")])
def test_a_misspelt_parameter_of_a_notebook_is_refused(name, value, meant):
    """papermill injects it into the notebook and only warns."""
    names = dict.fromkeys(variants.PARAMETERS, None) | {"torch": torch, "x": 3, "folder": "a", "_epochs": 1, "np": None}
    variants.refuse_misspelt_parameters(names)
    with pytest.raises(CourseError, match=f"{name} = .* has no effect. Did you mean the parameter {meant}"):
        variants.refuse_misspelt_parameters(names | {name: value})


def test_the_parameters_are_those_of_the_notebooks():
    found = set()
    for assignment in list_assignments():
        path = REPO / "notebooks" / f"{read_assignment(assignment)['notebook']}.ipynb"
        cells = [cell for cell in json.loads(path.read_text())["cells"]
                 if "parameters" in cell["metadata"].get("tags", ())]
        found |= {line.split(":")[0] for cell in cells for line in cell["source"] if not line.startswith("#")}
    assert found == variants.PARAMETERS
