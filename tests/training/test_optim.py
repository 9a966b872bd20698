import pytest
import torch
from torch import nn

from course_utils.training.optim import learning_rates, make_optimizer, make_schedule


@pytest.mark.parametrize(("settings", "reference"), [
    ({"schedule": "one_cycle", "peak_epoch": 3.0, "anneal": "cos", "final_div_factor": 1e4},
     lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.02, total_steps=70)),  # torch's defaults
    ({"schedule": "one_cycle", "peak_epoch": 2.0, "div_factor": 10.0},
     lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.02, total_steps=70, pct_start=0.2, div_factor=10,
                                                   final_div_factor=1, anneal_strategy="linear")),
    ({"schedule": "step", "step_epochs": 3.0, "step_gamma": 0.3},
     lambda o: torch.optim.lr_scheduler.StepLR(o, 21, 0.3)),
    ({"schedule": "cosine"}, lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 70)),
    ({"schedule": "constant"}, lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda _: 1.0)),
])
def test_schedules_equal_torch_s_own(tiny, settings, reference):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.02, momentum=0.9)
    schedule, expected = reference(optimizer), []
    for _ in range(70):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert learning_rates(tiny.replace(epochs=10).replace(**settings), 0.02, 7) == pytest.approx(expected)


@pytest.mark.parametrize(("name", "kind", "momentum"), [
    ("adam", torch.optim.Adam, lambda group: group["betas"][0]),
    ("sgd", torch.optim.SGD, lambda group: group["momentum"]),
])
def test_optimizers_and_one_cycle_s_momentum(tiny, name, kind, momentum):
    exp = tiny.replace(optimizer=name, weight_decay=0.01)
    optimizer = make_optimizer(exp, nn.Linear(2, 1), 0.3)
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == 0.3 and optimizer.defaults["weight_decay"] == 0.01
    schedule, found = make_schedule(exp, optimizer, 10), []
    for _ in range(40):
        found.append(momentum(optimizer.param_groups[0]))
        optimizer.step()
        schedule.step()
    assert (max(found), min(found)) == (pytest.approx(0.95), pytest.approx(0.85)) and found[0] == max(found)


@pytest.mark.parametrize("name", ["adam", "sgd"])
def test_decay_of_weights_alone_spares_biases_and_normalization(tiny, name):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    exp = tiny.replace(optimizer=name, weight_decay=0.01, decay="weights")
    weights, others = make_optimizer(exp, model, 0.3).param_groups
    assert [p.ndim for p in weights["params"]] == [4, 2] and weights["weight_decay"] == 0.01
    assert [p.ndim for p in others["params"]] == [1, 1, 1, 1] and others["weight_decay"] == 0
    (everything,) = make_optimizer(exp.replace(decay="all"), model, 0.3).param_groups
    assert len(everything["params"]) == 6 and everything["weight_decay"] == 0.01


def test_nesterov_is_torch_s(tiny):
    model = nn.Linear(3, 1)
    for nesterov in (True, False):
        exp = tiny.replace(optimizer="sgd", nesterov=nesterov)
        assert make_optimizer(exp, model, 0.1).param_groups[0]["nesterov"] is nesterov
