import time

import psutil
import pytest
import torch
from helpers import all_weights, fit_toy, interrupt_at, toy_loader, toy_model
from torch import nn

from course_utils.config import Transform
from course_utils.data.loader import Loaders
from course_utils.errors import CourseError
from course_utils.training.trainer import fit, fit_stages, time_without_pauses

STAGES = ({"epochs": 3, "lr": 0.005, "batch_size": 8, "optimizer": "sgd", "schedule": "step", "step_epochs": 1.0},)


def without_seconds(history):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in history]


def test_training_equals_a_plain_loop(tiny):
    """Against torch's own Adam and OneCycleLR, stepped by hand."""
    trained, training = fit_toy(tiny, toy_model(dropout=0))
    plain = toy_model(dropout=0)
    optimizer = torch.optim.Adam(plain.parameters(), 0.02)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=16, pct_start=0.25, div_factor=25,
                                                final_div_factor=1, anneal_strategy="linear")
    for epoch in range(1, 5):
        total = 0.0
        for x, y in toy_loader(16, shuffle=True).epoch(epoch):
            loss = nn.functional.cross_entropy(plain(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            cycle.step()
            total += loss.item() * len(y) / 64
    torch.testing.assert_close(trained, all_weights(plain), rtol=1e-4, atol=1e-5)
    assert abs(training.history[-1]["train_loss"] - total) < 1e-4


def test_the_same_seed_gives_the_same_bits_and_another_seed_others(tiny):
    (first, training), (again, repeated) = fit_toy(tiny), fit_toy(tiny)
    assert torch.equal(first, again)
    assert without_seconds(training.history) == without_seconds(repeated.history)
    assert not torch.equal(first, fit_toy(tiny.replace(seed=1))[0])


def test_seconds_are_those_of_the_training_without_pauses():
    assert time_without_pauses([0.0, 1.0, 2.5, 3.5]) == 3.5
    assert time_without_pauses([0.0, 1.0, 2.0, 9000.0, 9001.0]) == pytest.approx(4.0)  # stopped for hours
    assert time_without_pauses([0.0, 0.01, 0.02, 5.0]) == 5.0  # the last waits for a GPU
    assert time_without_pauses([0.0, 40.0]) == 40.0


@pytest.mark.parametrize("settings", [{}, {"optimizer": "sgd", "schedule": "cosine"}, {"schedule": "step"},
                                      {"holdout": 0.2, "select_epoch": "best", "patience": 3, "schedule": "constant"}])
def test_an_interrupted_training_resumes_bit_equal(tiny, tmp_path, settings):
    exp = tiny.replace(**settings)
    complete, training = fit_toy(exp)
    with pytest.raises(KeyboardInterrupt):
        fit_toy(exp, folder=tmp_path, log=interrupt_at("3/4"), environment={"commit": "a"})
    lines = []
    resumed, again = fit_toy(exp, toy_model(seed=9), folder=tmp_path, log=lines.append, environment={"commit": "b"})
    assert lines[0].startswith("Resumed after epoch 2 of 4. So far:\nepoch   1/4") and lines[0].count("\n") == 2
    assert torch.equal(resumed, complete)
    assert [(s["from_epoch"], s["precision"], s["device"], s["commit"]) for s in again.sessions] == \
           [(1, "fp32", "cpu", "a"), (3, "fp32", "cpu", "b")]
    assert without_seconds(again.history) == without_seconds(training.history)
    finished, once_more = fit_toy(exp, toy_model(seed=9), folder=tmp_path)
    assert torch.equal(finished, complete) and len(once_more.sessions) == 2


def per_image_loader(num_workers):
    steps = (Transform("shift_scale_rotate", 0.7, {"shift": 0.1, "scale": 0.1, "rotate": 30}),)
    return toy_loader(16, shuffle=True, engine="albumentations", augmentation=steps, num_workers=num_workers)


def test_the_per_image_engine_trains_the_same_with_and_without_workers(tiny):
    exp, models = tiny.replace(epochs=2), (toy_model(), toy_model())
    for model, num_workers in zip(models, (0, 2)):
        fit(exp, model, per_image_loader(num_workers), toy_loader(), exp.lr, log=lambda _: None)
    assert torch.equal(*map(all_weights, models))


def test_an_error_in_a_step_ends_the_workers(tiny):
    """Although the error, as in a notebook, is kept and with it everything that its traceback refers to."""
    model, before = toy_model(), set(psutil.Process().children())
    model.register_forward_hook(lambda module, _, output: 1 / 0 if module.training else output)
    with pytest.raises(ZeroDivisionError) as kept:
        fit(tiny, model, per_image_loader(2), toy_loader(), tiny.lr, log=lambda _: None)
    deadline = time.monotonic() + 20
    while set(psutil.Process().children()) - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert kept.value.__traceback__ and not set(psutil.Process().children()) - before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_toy_problem_is_learned(tiny, precision):
    _, training = fit_toy(tiny.replace(epochs=10), precision=precision)
    first, last = training.history[0], training.history[-1]
    assert last["test_accuracy"] == 1 and last["train_loss"] < 0.6 * first["train_loss"]
    assert [row["epoch"] for row in training.history] == list(range(1, 11))
    assert training.sessions[0]["precision"] == precision


def fit_toy_stages(exp, folder=None, log=lambda _: None):
    def loaders_of(stage):
        train = toy_loader(stage.batch_size, shuffle=True, seed=stage.seed)
        return Loaders(train, toy_loader(), toy_loader(), toy_loader(), None)

    model = toy_model()
    training = fit_stages(exp, model, loaders_of, exp.lr, folder=folder, log=log)
    return all_weights(model), training


def test_a_stage_continues_with_the_weights_and_starts_everything_else_again(tiny):
    exp, model, lines = tiny.replace(epochs=2, stages=STAGES), toy_model(), []
    trained, training = fit_toy_stages(exp, log=lines.append)
    with pytest.raises(CourseError, match="one stage"):
        fit(exp, toy_model(), toy_loader(), toy_loader(), exp.lr)
    for stage in exp.all_stages:
        by_hand, part = fit_toy(stage, model)
    assert torch.equal(trained, by_hand)
    assert [(row["epoch"], row["stage"]) for row in training.history] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert [row["lr"] for row in training.history[2:]] == pytest.approx([0.005, 0.0005, 0.00005])
    assert training.history[-1]["test_loss"] == part.history[-1]["test_loss"]
    assert [(session["from_epoch"], session["stage"]) for session in training.sessions] == [(1, 1), (3, 2)]
    assert "Stage 2 of 2: 3 epochs of 8 steps" in lines and "stage" not in fit_toy_stages(tiny)[1].history[0]


@pytest.mark.parametrize("epoch", ["2/2", "1/3", "2/3"])
def test_an_interruption_in_any_stage_resumes_bit_equal(tiny, tmp_path, epoch):
    exp = tiny.replace(epochs=2, stages=STAGES)
    complete, training = fit_toy_stages(exp)
    with pytest.raises(KeyboardInterrupt):
        fit_toy_stages(exp, tmp_path, interrupt_at(epoch))
    resumed, again = fit_toy_stages(exp, tmp_path)
    assert torch.equal(complete, resumed)
    assert without_seconds(training.history) == without_seconds(again.history)


def test_images_too_small_for_the_network_are_refused_before_training(tiny):
    small = toy_loader(augmentation=[Transform("resize", 1.0, {"size": 2})])
    net = nn.Sequential(nn.Conv2d(3, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    for train, val in ((small, toy_loader()), (toy_loader(), small)):
        with pytest.raises(CourseError, match=r"2x2 pixels: .* 4x4"):
            fit(tiny, net, train, val, 0.01, log=pytest.fail)


def test_the_best_epoch_is_restored_and_patience_ends_the_run(tiny):
    exp = tiny.replace(epochs=30, holdout=0.2, select_epoch="best", patience=3, schedule="constant")
    trained, training = fit_toy(exp)
    accuracies = [row["val_accuracy"] for row in training.history]
    best = accuracies.index(max(accuracies))
    assert (training.best["epoch"], training.best["val_accuracy"]) == (best + 1, max(accuracies))
    assert len(accuracies) == best + 4 < 30
    shorter, _ = fit_toy(exp.replace(patience=None).replace(epochs=best + 1, select_epoch="last"))
    assert torch.equal(trained, shorter)  # the weights are those after the best epoch, not the last ones


@pytest.mark.parametrize("folder", [True, False])
def test_a_training_interrupted_in_its_first_epoch_starts_again_from_the_first_weights(tiny, tmp_path, folder):
    """In a notebook the model of the interrupted call is used again."""
    model, steps = toy_model(), 0

    def interrupt(module, _):
        nonlocal steps
        steps += module.training
        if steps == 3:
            raise KeyboardInterrupt

    hook = model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit_toy(tiny, model, folder=tmp_path if folder else None)
    hook.remove()
    weights, training = fit_toy(tiny, model, folder=tmp_path if folder else None)
    assert torch.equal(weights, fit_toy(tiny)[0]) and len(training.history) == tiny.epochs


@pytest.mark.parametrize(("change", "message"), [
    ({"threads": 1}, "threads 2 -> 1"), ({"machine": "other"}, "machine this -> other"), ({}, None),
    ({"versions": {"torch": "3"}}, "versions {'torch': '2'} -> {'torch': '3'}"),
    ({"precision": "bf16"}, "fp32 -> bf16")])
def test_a_training_that_resumes_under_other_conditions_says_so(tiny, tmp_path, change, message):
    first = {"machine": "this", "threads": 2, "versions": {"torch": "2"}}
    with pytest.raises(KeyboardInterrupt):
        fit_toy(tiny, folder=tmp_path, environment=first, log=interrupt_at("3/4"))
    lines = []
    precision = change.pop("precision", "fp32")
    _, training = fit_toy(tiny, folder=tmp_path, environment=first | change, precision=precision, log=lines.append)
    found = [line for line in lines if line.startswith("Resumed under other conditions")]
    assert bool(found) == bool(message) and all(message in line for line in found)
    assert training.sessions[1]["threads"] == change.get("threads", 2)  # the record has both
