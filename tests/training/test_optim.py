import pytest
import torch
from torch import nn

from course_utils.training.optim import learning_rates, make_optimizer, make_schedule


def test_one_cycle_peaks_where_it_should_and_ends_where_it_began(tiny):
    exp = tiny.replace(epochs=24, peak_epoch=5, div_factor=100)
    rates = learning_rates(exp, 0.5, 98)
    assert len(rates) == 24 * 98
    assert abs(rates.index(max(rates)) / 98 - 5) < 0.02 and max(rates) == pytest.approx(0.5)
    assert rates[0] == pytest.approx(0.005) and rates[-1] == pytest.approx(0.005)
    assert min(rates) == pytest.approx(0.005)  # no annihilation


def test_a_cosine_cycle_is_torch_s_own_default(tiny):
    exp = tiny.replace(epochs=10, peak_epoch=3.0, anneal="cos", final_div_factor=1e4)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=70)
    rates = learning_rates(exp, 0.02, 7)
    for rate in rates:
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    assert max(rates) == pytest.approx(0.02) and rates[-1] == pytest.approx(0.02 / 25 / 1e4)


@pytest.mark.parametrize(("schedule", "expected"), [
    ("constant", [1, 1, 1, 1]), ("step", [1, 1, 0.1, 0.1]), ("cosine", [1, 0.8536, 0.5, 0.1464]),
])
def test_other_schedules_at_the_start_of_each_epoch(tiny, schedule, expected):
    rates = learning_rates(tiny.replace(schedule=schedule, step_epochs=2), 1.0, 10)
    assert rates[::10] == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("sgd", torch.optim.SGD)])
def test_optimisers(tiny, name, kind):
    optimizer = make_optimizer(tiny.replace(optimizer=name, weight_decay=0.01), [nn.Parameter(torch.ones(2))], 0.3)
    assert type(optimizer) is kind
    assert optimizer.defaults["lr"] == 0.3 and optimizer.defaults["weight_decay"] == 0.01
    make_schedule(tiny, optimizer, 10)  # one_cycle moves either's momentum
