"""The STL-10 nets layer by layer against the published order of execution.

A convolution is written "inputs>outputs side of the output", with k (kernel, else 3), s2 (stride), p (padding) and g
(groups); "r" is its activation, "n" a batch norm, b a bias, "max" and "mean" poolings with the side that they leave.
"""
import pytest
import torch
from torch import nn

from course_utils.models.summary import count_parameters
from course_utils.models import build_model

LENET_WIDE = """
3>64 48 k7 s2 p3 b r r n max 24  64>128 26 p2 b r n  128>256 28 p2 b r n max 14  256>512 16 p2 b r n  mean 1
linear 512>10 b r"""
CUSTOM_NET = """
3>64 49 k5 s2 p3 b r r n max 24  64>128 25 k4 p2 b r n  128>128 26 k4 p2 b r n  128>128 26 k1 b r n
128>256 28 p2 b r n  256>256 30 p2 b r n  256>256 30 k1 b r n max 15  256>512 18 k2 p2 b r n
mean 1  linear 512>10 b r"""
CUSTOM_NET_256 = """
3>64 48 k7 s2 p3 b r r n max 24  64>64 26 p2 b r n  64>128 28 p2 b r n  128>128 26 b r n  128>128 28 p2 b r n
128>256 30 p2 b r n  256>256 28 b r n max 14  256>256 16 p2 b r n  mean 1  linear 256>10 b r"""


def bottlenecks(inputs, planes, blocks, side, stride):
    narrow, out, lines = planes // 2, 4 * planes, []
    for number in range(blocks):
        before, mark = (side * stride, " s2" * (stride == 2)) if number == 0 else (side, "")
        shortcut = f"{inputs}>{out} {side} k1{mark} n" if number == 0 else ""
        lines.append(f"{inputs}>{narrow} {before} k1 n r {narrow}>{narrow} {side}{mark} p1 g8 n r "
                     f"{narrow}>{out} {side} k1 n {shortcut} r")
        inputs = out
    return " ".join(lines)


GROUPED_RESNET = f"""
3>64 48 k7 s2 p3 n r max 24 {bottlenecks(64, 64, 3, 24, 1)} {bottlenecks(256, 128, 6, 12, 2)}
{bottlenecks(512, 256, 3, 6, 2)} mean 1 linear 1024>10 b"""


def written(layer, side):
    if isinstance(layer, nn.ReLU | nn.LeakyReLU):
        return "r"
    if isinstance(layer, nn.BatchNorm2d):
        return "n"
    if isinstance(layer, nn.MaxPool2d | nn.AdaptiveAvgPool2d):
        return f"{'max' if isinstance(layer, nn.MaxPool2d) else 'mean'} {side}"
    bias = ["b"] if layer.bias is not None else []
    if isinstance(layer, nn.Linear):
        return " ".join([f"linear {layer.in_features}>{layer.out_features}", *bias])
    marks = [("k", layer.kernel_size[0], 3), ("s", layer.stride[0], 1), ("p", layer.padding[0], 0),
             ("g", layer.groups, 1)]
    return " ".join([f"{layer.in_channels}>{layer.out_channels} {side}",
                     *(f"{mark}{value}" for mark, value, usual in marks if value != usual), *bias])


@pytest.mark.parametrize(("name", "settings", "parameters", "text"), [
    ("lenet_wide", {}, 1_565_706, LENET_WIDE), ("custom_net", {}, 1_899_274, CUSTOM_NET),
    ("custom_net", {"slope": 0.1}, 1_899_274, CUSTOM_NET),
    ("custom_net_256", {"slope": 0.1}, 1_895_882, CUSTOM_NET_256),
    ("grouped_resnet", {}, 1_939_530, GROUPED_RESNET)])
def test_layer_by_layer_as_published(name, settings, parameters, text):
    model = build_model(name, 10, **settings).eval()
    assert count_parameters(model) == parameters
    ran = []
    for leaf in (m for m in model.modules() if not list(m.children()) and not isinstance(m, nn.Identity)):
        leaf.register_forward_hook(lambda layer, _, output: ran.append(written(layer, output.shape[-1])))
    with torch.no_grad():
        assert model(torch.randn(2, 3, 96, 96)).shape == (2, 10)
    assert " ".join(ran).split() == text.split()


@pytest.mark.parametrize(("slope", "least"), [(0.0, 0.0), (0.1, -0.1)])
def test_the_activation_on_the_logits_is_an_option(slope, least):
    torch.manual_seed(0)
    with_it = build_model("lenet_wide", 10, slope=slope).eval()
    without = build_model("lenet_wide", 10, slope=slope, logit_activation=False).eval()
    without.load_state_dict(with_it.state_dict())
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        logits, plain = with_it(x), without(x)
    assert plain.min() < 0
    torch.testing.assert_close(logits, torch.where(plain < 0, slope * plain, plain))


def test_the_first_activation_runs_twice():
    """As published: of a slope of 0.1 it makes 0.01, of a ReLU nothing else."""
    model = build_model("custom_net", 10, slope=0.1)
    x = torch.tensor([-1.0, 2.0])
    torch.testing.assert_close(model.features[2](model.features[1](x)), torch.tensor([-0.01, 2.0]))


def test_convolutions_start_kaiming_normal():
    torch.manual_seed(0)
    for name in ("custom_net", "grouped_resnet"):
        for layer in build_model(name, 10).modules():
            if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 20_000:
                fan_out = layer.out_channels * layer.kernel_size[0] ** 2
                assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_ours_keeps_to_two_million_and_begins_as_the_identity():
    torch.manual_seed(0)
    model = build_model("residual_net", 10)
    assert count_parameters(model) == 1_812_914
    x = torch.randn(2, 40, 48, 48).relu()
    torch.testing.assert_close(model.stage1(x), x)
    assert model(torch.randn(2, 3, 96, 96)).shape == (2, 10)
