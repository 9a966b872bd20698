"""The three networks of the variants ``best``, which are loaded as custom networks."""
import pytest
import torch

from course_utils.models import build_model
from course_utils.models.summary import count_parameters

BEST = [("cifar10_dilated_depthwise", "DilatedNet", 32, 10, 182_106, 200_000),
        ("gtsrb_stn", "SignNet", 32, 43, 2_299_069, 15_000_000),
        ("stl10_versions", "ResidualNet", 96, 10, 1_812_914, 2_000_000)]


@pytest.mark.parametrize(("folder", "name", "size", "classes", "parameters", "limit"), BEST)
def test_parameters_are_as_documented_and_within_the_limit(folder, name, size, classes, parameters, limit):
    model = build_model(f"assignments/{folder}/best_net.py:{name}", classes, size)
    assert count_parameters(model) == parameters <= limit
    assert f"{parameters:,}" in type(model).__doc__ or f"{parameters / 1e6:.2f} M" in type(model).__doc__
    with torch.no_grad():
        assert model.eval()(torch.randn(2, 3, size, size)).shape == (2, classes)


def test_residual_net_starts_as_the_identity():
    torch.manual_seed(0)
    model = build_model("assignments/stl10_versions/best_net.py:ResidualNet", 10, 96)
    x = torch.randn(2, 40, 48, 48).relu()
    torch.testing.assert_close(model.stage1(x), x)


def test_sign_net_returns_log_probabilities():
    model = build_model("assignments/gtsrb_stn/best_net.py:SignNet", 43).eval()
    with torch.no_grad():
        torch.testing.assert_close(model(torch.randn(5, 3, 32, 32)).exp().sum(1), torch.ones(5))
