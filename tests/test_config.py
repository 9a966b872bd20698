import dataclasses

import pytest

from course_utils import config as experiment
from course_utils.augment.pipeline import build_steps
from course_utils.errors import CourseError
from course_utils.variants import load_experiment
from course_utils.models import build_model

NAME = "cifar10_custom_resnet"
HEAD = 'title = "t"\nnotebook = "n"\n'


@pytest.mark.parametrize("assignment", experiment.list_assignments())
@pytest.mark.parametrize("profile", experiment.PROFILES)
def test_every_variant_is_lawful(assignment, profile):
    for variant in experiment.read_assignment(assignment)["variants"]:
        exp = load_experiment(assignment, variant, profile)
        assert exp.data == ("synthetic" if profile == "smoke" else "real")
        for stage in exp.all_stages:
            build_steps(stage.augmentation)
        build_model(exp.model, 10, **exp.model_settings)


def test_the_published_settings():
    exp = load_experiment(NAME)
    assert (exp.epochs, exp.batch_size, exp.optimizer) == (24, 512, "adam")
    assert (exp.schedule, exp.peak_epoch) == ("one_cycle", 5)
    assert [t.name for t in exp.augmentation] == ["horizontal_flip", "shift_scale_rotate", "coarse_dropout"]


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        load_experiment(NAME).epochs = 3


def test_equal_experiments_are_equal():
    assert load_experiment(NAME) == load_experiment(NAME)
    assert load_experiment(NAME).as_dict() != load_experiment(NAME, seed=1).as_dict()


def test_epochs_stretch_the_cycle():
    assert load_experiment(NAME, epochs=12).peak_epoch == 2.5
    assert load_experiment(NAME).replace(epochs=12, peak_epoch=4).peak_epoch == 4


@pytest.mark.parametrize(("changes", "said"), [
    ({"variant": "publsihed"}, "Did you mean 'published'"),
    ({"profile": "fast"}, "full, smoke"),
    ({"epochs": 0}, "greater than 0"),
    ({"epochs": 2.5}, "must be int"),
    ({"epochs": True}, "must be int"),
    ({"seed": -1}, "between 0 and"),
    ({"lr": "high"}, "must be float or None"),
    ({"lr": float("nan")}, "greater than 0"),
    ({"optimizer": "adamw"}, "adam, sgd"),
    ({"engine": "kornia"}, "albumentations, torch"),
    ({"warmup": 3}, "Unknown setting: 'warmup'"),
    ({"select_epoch": "best"}, "holdout"),
    ({"patience": 3}, "holdout"),
    ({"peak_epoch": 24}, "between 0 and epochs"),
])
def test_what_cannot_be_is_refused(changes, said):
    with pytest.raises(CourseError, match=said):
        load_experiment(NAME, **changes)


def test_an_unknown_assignment_lists_the_known_ones():
    with pytest.raises(CourseError, match=NAME):
        load_experiment("cifar10")


@pytest.mark.parametrize(("text", "said"), [
    ("variant = [", "variants.toml"),
    ('title = "t"\n[variant.a]\nabout = "x"', "lacks notebook, smoke"),
    (HEAD + 'colour = 1\n[smoke]\nepochs = 1\n[variant.a]\nabout = "x"', "Unknown key: 'colour'"),
    (HEAD + '[smoke]\nepochs = 1\n[variant.a]\nabout = "x"\nepoch = 3', "Unknown setting of broken:a: 'epoch'"),
    (HEAD + '[smoke]\nepochs = 1\n[variant.a]\nabout = "x"', "lacks a setting"),
])
def test_a_broken_file_is_refused(tmp_path, monkeypatch, text, said):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "variants.toml").write_text(text)
    monkeypatch.setattr(experiment, "ASSIGNMENTS", tmp_path)
    with pytest.raises(CourseError, match=said):
        load_experiment("broken")


def test_the_table_names_every_setting():
    text = load_experiment(NAME).table()
    assert all(f.name in text for f in dataclasses.fields(experiment.Experiment))
    assert "coarse_dropout(p=0.5, size=16)" in text


def toml_with(tmp_path, monkeypatch, variants):
    folder = tmp_path / "made_up"
    folder.mkdir()
    (folder / "variants.toml").write_text('title = "t"\nnotebook = "01_x"\n[smoke]\nepochs = 1\n' + variants)
    monkeypatch.setattr(experiment, "ASSIGNMENTS", tmp_path)


BASE = '[variant.a]\nabout = "a"\ndataset = "cifar10"\nmodel = "m"\nepochs = 3\nbatch_size = 4\nlr = 0.1\n'


def test_a_variant_is_written_as_its_difference(tmp_path, monkeypatch):
    toml_with(tmp_path, monkeypatch, BASE + '[variant.b]\nlike = "a"\nlr = 0.2\n[variant.c]\nlike = "b"\nepochs = 7\n')
    exp = experiment.load("made_up", "c")
    assert (exp.model, exp.lr, exp.epochs, exp.variant) == ("m", 0.2, 7, "c")


@pytest.mark.parametrize(("variants", "said"), [
    ('[variant.b]\nlike = "z"\n', "Legal: a, b"), ('[variant.b]\nlike = "c"\n[variant.c]\nlike = "b"\n', "circle"),
])
def test_a_variant_like_none_or_itself_is_refused(tmp_path, monkeypatch, variants, said):
    toml_with(tmp_path, monkeypatch, BASE + variants)
    with pytest.raises(CourseError, match=said):
        experiment.load("made_up", "b")


def test_the_stl10_history():
    """What the log says of its versions, in literal values: network, batch, passes; and by stage epochs, epochs until
    the rate falls, size of the tests, and the step that makes the size.
    """
    first = ("affine", 1.0, {"rotate": 45})
    colours = {"brightness": 0.3, "contrast": 0.3, "saturation": 0.3, "hue": 0.3}
    last = [("horizontal_flip", 0.5, {}), ("color_matrix", 1.0, colours)]
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
        assert (exp.model, exp.model_settings, exp.batch_size, exp.passes) == (model, settings, batch, passes)
        stages = exp.all_stages
        assert [(stage.epochs, stage.step_epochs, stage.test_image_size) for stage in stages] == [part[:3] for part in wanted]
        for stage, (*_, (step, size)) in zip(stages, wanted):
            steps = [(change.name, change.p, change.settings) for change in stage.augmentation]
            assert steps == [first, (step, 1.0, {"size": size}), *last]
            assert (stage.optimizer, stage.lr, stage.weight_decay, stage.step_gamma) == ("adam", 0.001, 0.0001, 0.1)
        assert exp.all_epochs == sum(stage.epochs for stage in stages) == experiment.total_epochs(exp.as_dict())
        assert exp.holdout == 0.2 and exp.keep == "best"


@pytest.mark.parametrize("profile", experiment.PROFILES)
def test_any_number_of_epochs_is_lawful(profile):
    for assignment in experiment.list_assignments():
        for variant in experiment.read_assignment(assignment)["variants"]:
            for epochs in (1, 3, 10, 50):
                assert load_experiment(assignment, variant, profile, epochs=epochs).epochs == epochs


def test_where_a_notebook_starts():
    assert load_experiment("stl10_versions", 2.3) == load_experiment("stl10_versions", "2.3")  # papermill -p makes a number of it
    assert load_experiment("stl10_versions").variant == "2.5" and load_experiment("gtsrb_stn").variant == "lenet_stn"
