import pytest
import torch
from helpers import toy_loader, toy_model
from torch import nn

from course_utils.training import checkpoint, trainer as train
from course_utils.errors import CourseError, DivergenceError, OutOfMemoryError
from course_utils.config import Transform

QUIET = {"say": lambda _: None}


def fit(exp, machine, model=None, **settings):
    model = model or toy_model()
    batches = toy_loader(exp.batch_size, shuffle=True, seed=exp.seed)
    training = train.fit(exp, model, batches, toy_loader(), exp.lr, machine, **QUIET | settings)
    return model, training


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.state_dict().values()])


def test_it_learns(tiny, machine):
    _, training = fit(tiny.replace(epochs=10), machine)
    first, last = training.history[0], training.history[-1]
    assert last["test_accuracy"] == 1 and last["train_loss"] < 0.6 * first["train_loss"]
    assert [row["epoch"] for row in training.history] == list(range(1, 11))


def test_the_engine_equals_a_plain_loop(tiny, machine):
    """Against torch's own Adam and OneCycleLR, stepped by hand."""
    model, training = fit(tiny, machine, toy_model(dropout=0))
    plain = toy_model(dropout=0)
    optimizer = torch.optim.Adam(plain.parameters(), 0.02)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=16, pct_start=0.25, div_factor=25,
                                                final_div_factor=1, anneal_strategy="linear")
    total = 0.0
    for epoch in range(1, 5):
        total = 0.0
        for x, y in toy_loader(16, shuffle=True).epoch(epoch):
            loss = nn.functional.cross_entropy(plain(x), y)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            cycle.step()
            total += loss.item() * len(y) / 64
    torch.testing.assert_close(weights(model), weights(plain), rtol=1e-4, atol=1e-5)
    assert abs(training.history[-1]["train_loss"] - total) < 1e-4


def test_the_same_seed_gives_the_same_bits(tiny, machine):
    (one, _), (two, _) = fit(tiny, machine), fit(tiny, machine)
    assert torch.equal(weights(one), weights(two))
    assert not torch.equal(weights(one), weights(fit(tiny.replace(seed=1), machine)[0]))


def test_a_cut_training_goes_on_to_the_same_bits(tiny, machine, tmp_path):
    whole, training = fit(tiny, machine)

    class CutError(Exception):
        pass

    def cut(line):
        if line.startswith("epoch   3"):
            raise CutError

    with pytest.raises(CutError):
        fit(tiny, machine, folder=tmp_path, log=cut)
    said = []
    resumed, again = fit(tiny, machine, toy_model(seed=9), folder=tmp_path, log=said.append, origin={"commit": "b"})
    assert said[0].startswith("Resumed after epoch 2 of 4.") and said[0].count("\n") == 2
    assert torch.equal(weights(resumed), weights(whole))
    assert [s["from_epoch"] for s in again.sessions] == [1, 3]
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in again.history] == \
           [{k: v for k, v in row.items() if k not in drop} for row in training.history]
    finished, once_more = fit(tiny, machine, toy_model(seed=9), folder=tmp_path)
    assert torch.equal(weights(finished), weights(whole)) and len(once_more.sessions) == 2


def test_the_checkpoint_of_another_experiment_is_refused(tiny, machine, tmp_path):
    fit(tiny, machine, folder=tmp_path)
    with pytest.raises(CourseError, match=r"weight_decay: 0\.0 there, 0\.1 asked for"):
        fit(tiny.replace(weight_decay=0.1), machine, folder=tmp_path)


def test_a_loss_that_is_no_number_stops_the_run(tiny, machine, tmp_path):
    with pytest.raises(CourseError, match=r"no longer a number: epoch 1, step \d+, rate 1\.0e\+30"):
        fit(tiny.replace(optimizer="sgd", schedule="constant", lr=1e30), machine, folder=tmp_path)
    assert not list(tmp_path.glob("*.pt"))


def test_a_loss_far_above_guessing_stops_the_run_and_leaves_the_last_good_one(tiny, machine, tmp_path):
    """From the second epoch on: the first may be wild."""
    wild = tiny.replace(optimizer="sgd", momentum=0.99, schedule="constant", lr=300.0)
    with pytest.raises(DivergenceError, match=r"of epoch 2 is .*, where blind guessing costs 0\.693; the rate was 3\.0e\+02"):
        fit(wild, machine, folder=tmp_path)
    assert [path.name[:10] for path in tmp_path.glob("*.pt")] == ["epoch-0001"]


@pytest.mark.parametrize("error", [
    MemoryError("no"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
    torch.OutOfMemoryError("CUDA out of memory.")])
def test_memory_that_is_not_there_is_named_with_the_batch(tiny, machine, monkeypatch, error):
    def no_room(*_):
        raise error

    monkeypatch.setattr(train, "train_step", no_room)
    with pytest.raises(OutOfMemoryError, match=r"16 images does not fit into the \d+ GiB"):
        fit(tiny, machine)
    monkeypatch.setattr(train, "train_step", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fit(tiny, machine)


class Loaders:
    def __init__(self, exp):
        self.train = toy_loader(exp.batch_size, shuffle=True, seed=exp.seed)
        self.val = toy_loader()


STAGES = ({"epochs": 3, "lr": 0.005, "batch_size": 8, "optimizer": "sgd", "schedule": "step", "step_epochs": 1.0},)


def fit_stages(exp, machine, folder=None, log=lambda _: None):
    model = toy_model()
    return model, train.fit_stages(exp, model, Loaders, exp.lr, machine, folder=folder, log=say)


def test_a_stage_goes_on_with_the_weights_and_begins_all_else_anew(tiny, machine):
    exp = tiny.replace(epochs=2, stages=STAGES)
    model, training = fit_stages(exp, machine)
    by_hand = toy_model()
    for stage in exp.all_stages:
        batches = Loaders(stage)
        part = train.fit(stage, by_hand, batches.train, batches.val, stage.lr, machine, **QUIET)
    assert torch.equal(weights(model), weights(by_hand))
    assert [(row["epoch"], row["stage"]) for row in training.history] == [(1, 1), (2, 1), (3, 2), (4, 2), (5, 2)]
    assert [row["lr"] for row in training.history[2:]] == pytest.approx([0.005, 0.0005, 0.00005])
    assert training.history[-1]["test_loss"] == part.history[-1]["test_loss"]


def test_without_stages_it_is_fit(tiny, machine):
    (one, first), (two, second) = fit(tiny, machine), fit_stages(tiny, machine)
    assert torch.equal(weights(one), weights(two)) and "stage" not in second.history[0]
    assert [row["train_loss"] for row in first.history] == [row["train_loss"] for row in second.history]


@pytest.mark.parametrize("cut", [2, 3, 4])
def test_a_cut_in_any_stage_goes_on_to_the_same_bits(tiny, machine, tmp_path, cut):
    exp = tiny.replace(epochs=2, stages=STAGES)
    whole, training = fit_stages(exp, machine)
    lines = []

    def cutting(line):
        lines.append(line)
        if sum(text.startswith("epoch") for text in lines) == cut:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_stages(exp, machine, tmp_path, cutting)
    again, resumed = fit_stages(exp, machine, tmp_path)
    assert torch.equal(weights(whole), weights(again))
    assert [row["train_loss"] for row in training.history] == [row["train_loss"] for row in resumed.history]


def test_images_too_small_for_the_network_are_refused_before_training(tiny, machine):
    small = toy_loader(augmentation=[Transform("resize", 1.0, {"size": 2})])
    net = nn.Sequential(nn.Conv2d(3, 4, 4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    for train_on, watch in ((small, toy_loader()), (toy_loader(), small)):
        with pytest.raises(CourseError, match=r"2x2 pixels: .* 4x4"):
            train.fit(tiny, net, train_on, watch, 0.01, machine, log=pytest.fail)


def test_what_a_stage_may_change(tiny):
    with pytest.raises(CourseError, match="Unknown setting of a stage: 'seed'"):
        tiny.replace(stages=({"seed": 3},))
    with pytest.raises(CourseError, match="momentum"):
        tiny.replace(stages=({"momentum": 3.0},))
    stretched = tiny.replace(stages=STAGES).replace(epochs=8)
    assert (stretched.stage(1).epochs, stretched.stage(1).step_epochs, stretched.all_epochs) == (6, 2.0, 14)
    assert tiny.replace(stages=STAGES).as_dict()["stages"] == [dict(STAGES[0])]


def test_the_best_epoch_is_kept_and_patience_ends_the_run(tiny, machine):
    exp = tiny.replace(epochs=30, holdout=0.2, select_epoch="best", patience=3, schedule="constant")
    model, training = fit(exp, machine)
    accuracies = [row["val_accuracy"] for row in training.history]
    best = accuracies.index(max(accuracies))
    assert training.best["epoch"] == best + 1
    assert len(accuracies) == best + 4 < 30
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), training.best["model"].values()))


def test_another_wording_and_younger_settings_do_not_orphan_a_checkpoint(tiny, machine, tmp_path, monkeypatch):
    fit(tiny.replace(about="other words"), machine, folder=tmp_path)
    state = checkpoint.latest(tmp_path)
    del state["experiment"]["label_smoothing"]  # as if it had been added since
    checkpoint.save(tmp_path, 4, state)
    fit(tiny, machine, folder=tmp_path)
