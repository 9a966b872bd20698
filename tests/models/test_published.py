"""Every published network, layer by layer, against the published order of execution.

A convolution is written "inputs>outputs size", with k (kernel, else 3), s (stride), p (padding), d (dilation), g
(groups) and b (bias) where it has them; "r" is an activation, "n" a batch norm, "g1" a group norm of one group, "o"
dropout; "max", "mean" and "linear" have the size of their output.
"""
import pytest
import torch
import torchvision
from torch import nn

from course_utils.models import MODELS, build_model
from course_utils.models.blocks import PairedConv2d
from course_utils.models.summary import count_parameters

CUSTOM_RESNET = """
3>64 32 p1 n r o  64>128 32 p1 max 16 n r o  128>128 16 p1 n r o  128>128 16 p1 n r o  128>256 16 p1 max 8 n r o
256>512 8 p1 max 4 n r o  512>512 4 p1 n r o  512>512 4 p1 n r o  max 1  linear 10 b"""
S7 = """
3>64 32 p1 r n  64>64 32 p1 g32 r n 64>64 32 k1  64>64 32 p1 g32 r n 64>64 32 k1  64>64 32 p1 g32 r n 64>32 32 k1
32>32 28 d2 r n  32>32 26 r n
32>32 26 p1 g32 r n 32>64 26 k1  64>64 26 p1 g64 r n 64>64 26 k1  64>64 26 p1 g64 r n 64>32 26 k1
32>32 22 d2 r n  32>32 20 r n
32>32 20 p1 g32 r n 32>64 20 k1  64>64 20 p1 g32 r n 64>64 20 k1  64>64 20 p1 g32 r n 64>32 20 k1
32>32 10 s2 p1  32>32 8 r n  32>16 6 r n  16>16 6 p2 d2 r n  mean 1  16>10 1 k1"""
S7_MIXED = """
3>32 32 p1 r n  32>64 32 p1 r n  64>64 32 p1 g32 r n  64>64 32 p1 g32 r n  64>64 32 p1 g32 r n 64>32 32 k1
32>32 28 d2 r n  32>32 26 r n
32>32 26 p1 g32 r n 32>64 26 k1  64>64 26 p1 g64 r n  64>64 26 p1 g64 r n 64>32 26 k1
32>32 22 d2 r n  32>32 20 r n
32>32 20 p1 g32 r n 32>64 20 k1  64>64 20 p1 g32 r n  64>64 20 p1 g32 r n 64>32 20 k1
32>32 10 s2 p1  32>32 8 r n  32>16 8 k1  16>16 6 r n  16>16 6 p2 d2 r n  mean 1  16>10 1 k1"""
NET = """
3>44 32 p1 r n o  44>44 32 p1 r n o  44>44 16 s2 p1 r n o  44>44 16 p1 r n o  44>44 16 p2 d2 r n o  44>44 8 s2 p1 r n o
44>44 8 p1 r n o  44>44 8 p1 r n o  44>44 4 s2 p1 r n o  44>44 4 p1 r n o  44>44 4 p1 r n o
44>44 4 p1 g44 b 44>44 4 k1 b r n o  mean 1  linear 10"""
LENET = """
3>6 28 k5 b r max 14  6>16 10 k5 b r max 5  16>120 1 k5 b n r o  120>84 1 k1 b n r o  84>43 1 k1 b"""
STN = "3>8 26 k7 b max 13 r  8>10 9 k5 b max 4 r  linear 32 b r  linear 6 b"
LENET_WIDE = """
3>64 48 k7 s2 p3 b r r n max 24  64>128 26 p2 b r n  128>256 28 p2 b r n max 14  256>512 16 p2 b r n  mean 1
linear 10 b r"""
CUSTOM_NET = """
3>64 49 k5 s2 p3 b r r n max 24  64>128 25 k4 p2 b r n  128>128 26 k4 p2 b r n  128>128 26 k1 b r n
128>256 28 p2 b r n  256>256 30 p2 b r n  256>256 30 k1 b r n max 15  256>512 18 k2 p2 b r n  mean 1  linear 10 b r"""
CUSTOM_NET_256 = """
3>64 48 k7 s2 p3 b r r n max 24  64>64 26 p2 b r n  64>128 28 p2 b r n  128>128 26 b r n  128>128 28 p2 b r n
128>256 30 p2 b r n  256>256 28 b r n max 14  256>256 16 p2 b r n  mean 1  linear 10 b r"""


def basic_blocks(inputs, channels, size, stride):
    mark, shortcut = (" s2", size * 2) if stride == 2 else ("", size)
    first = f"{inputs}>{channels} {size}{mark} p1 g1 r {channels}>{channels} {size} p1 g1"
    shortcut = f"{inputs}>{channels} {size} k1{mark} g1" if inputs != channels else ""
    return f"{first} {shortcut} r {channels}>{channels} {size} p1 g1 r {channels}>{channels} {size} p1 g1 r"


def bottlenecks(inputs, planes, blocks, size, stride):
    narrow, out, lines = planes // 2, 4 * planes, []
    for number in range(blocks):
        before, mark = (size * stride, " s2" * (stride == 2)) if number == 0 else (size, "")
        shortcut = f"{inputs}>{out} {size} k1{mark} n" if number == 0 else ""
        lines.append(f"{inputs}>{narrow} {before} k1 n r {narrow}>{narrow} {size}{mark} p1 g8 n r "
                     f"{narrow}>{out} {size} k1 n {shortcut} r")
        inputs = out
    return " ".join(lines)


def plain_stage(inputs, channels, size):
    pool = "" if size == 4 else f"max {size // 2}"
    return (f"{inputs}>{channels} {size} p1 b n r {channels}>{channels} {size} p1 b n r "
            f"{channels}>{channels} {size} p1 b o {pool} n r")


RESNET18 = f"""3>64 32 p1 g1 r {basic_blocks(64, 64, 32, 1)} {basic_blocks(64, 128, 16, 2)}
{basic_blocks(128, 256, 8, 2)} {basic_blocks(256, 512, 8, 1)} mean 1 512>10 1 k1"""
RESNET34 = f"""{plain_stage(3, 32, 32)} {plain_stage(32, 64, 16)} {plain_stage(64, 128, 8)} {plain_stage(128, 256, 4)}
linear 2048 b n r o linear 43 b"""
GROUPED_RESNET = f"""3>64 48 k7 s2 p3 n r max 24 {bottlenecks(64, 64, 3, 24, 1)} {bottlenecks(256, 128, 6, 12, 2)}
{bottlenecks(512, 256, 3, 6, 2)} mean 1 linear 10 b"""


def written(layer, output):
    for kind, text in (((nn.ReLU, nn.LeakyReLU), "r"), ((nn.BatchNorm1d, nn.BatchNorm2d), "n"), (nn.Dropout, "o")):
        if isinstance(layer, kind):
            return text
    size = output.shape[-1]
    if isinstance(layer, nn.GroupNorm):
        return f"g{layer.num_groups}"
    if not isinstance(layer, nn.Conv2d | nn.Linear):
        return f"{'max' if isinstance(layer, nn.MaxPool2d) else 'mean'} {size}"
    bias = "" if layer.bias is None else " b"
    if isinstance(layer, nn.Linear):
        return f"linear {size}{bias}"
    marks = [("k", layer.kernel_size[0], 3), ("s", layer.stride[0], 1), ("p", layer.padding[0], 0),
             ("d", layer.dilation[0], 1), ("g", layer.groups, 1)]
    return " ".join([f"{layer.in_channels}>{layer.out_channels} {size}",
                     *(f"{mark}{value}" for mark, value, usual in marks if value != usual)]) + bias


def executed(model, size, write):
    ran = []
    for leaf in (m for m in model.modules() if not list(m.children()) and not isinstance(m, nn.Identity)):
        leaf.register_forward_hook(lambda layer, _, output: ran.append(write(layer, output)))
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size, device=next(model.parameters()).device))
    return ran


NETWORKS = {
    "custom_resnet": (10, 32, 6_573_130, CUSTOM_RESNET), "s7": (10, 32, 99_744, S7), "net": (10, 32, 179_344, NET),
    "s7_mixed": (10, 32, 99_200, S7_MIXED), "resnet18": (10, 32, 11_173_952, RESNET18),
    "lenet": (43, 32, 65_219, LENET), "lenet_stn": (43, 32, 73_763, STN + LENET),
    "resnet34": (43, 32, 10_441_835, RESNET34), "resnet34_stn": (43, 32, 10_450_379, f"{STN} {RESNET34}"),
    "lenet_wide": (10, 96, 1_565_706, LENET_WIDE), "custom_net": (10, 96, 1_899_274, CUSTOM_NET),
    "custom_net_256": (10, 96, 1_895_882, CUSTOM_NET_256), "grouped_resnet": (10, 96, 1_939_530, GROUPED_RESNET)}


@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_the_published_ones(name):
    classes, size, parameters, text = NETWORKS[name]
    model = build_model(name, classes)
    assert count_parameters(model) == parameters
    assert " ".join(executed(model, size, written)).split() == text.split()


@pytest.mark.parametrize(("name", "parameters"), [("vgg16", 134_445_163), ("vgg16_stn", 134_453_707)])
def test_vgg16_is_torchvision_s(name, parameters):
    with torch.device("meta"):  # shapes alone: the 538 MB of weights need not exist
        model, reference = build_model(name, 43), torchvision.models.vgg16_bn(num_classes=43)
        layers = [executed(net, 32, lambda layer, output: (str(layer), output.shape)) for net in (model, reference)]
    assert count_parameters(model) == parameters
    assert layers[0][-len(layers[1]):] == layers[1] and len(layers[0]) - len(layers[1]) in (0, 9)


def test_all_networks_are_compared():
    assert set(MODELS) == {*NETWORKS, "vgg16", "vgg16_stn"}


@pytest.mark.parametrize(("name", "rates"), [("lenet", [0.2] * 2), ("resnet34", [0.2] * 5), ("vgg16", [0.5] * 2)])
def test_dropout_rates_are_the_published_ones(name, rates):
    with torch.device("meta"):
        assert [m.p for m in build_model(name, 43).modules() if isinstance(m, nn.Dropout)] == rates


@pytest.mark.parametrize("name", ["s7", "s7_mixed", "net", "resnet18", "lenet", "resnet34", "lenet_stn"])
def test_outputs_are_log_probabilities(name):
    with torch.no_grad():
        output = build_model(name, 10).eval()(torch.randn(5, 3, 32, 32))
    torch.testing.assert_close(output.exp().sum(1), torch.ones(5))


@pytest.mark.parametrize(("name", "block", "weight"), [
    ("custom_resnet", "layer1_r", "5.weight"), ("resnet18", "layer2.0.shortcut", "1.weight"),
    ("grouped_resnet", "stage2.0.shortcut", "1.weight")])
def test_residual_branches_contribute(name, block, weight):
    torch.manual_seed(1)
    model, x = build_model(name, 10).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = model(x)
        model.get_parameter(f"{block}.{weight}").mul_(2)
        assert (model(x) - before).abs().max() > 1e-3


def test_custom_resnet_adds_the_residual_blocks():
    torch.manual_seed(1)
    net, x = build_model("custom_resnet", 10).eval(), torch.randn(2, 3, 32, 32)
    one = net.layer1_x(net.prep(x))
    three = net.layer3_x(net.layer2(one + net.layer1_r(one)))
    torch.testing.assert_close(net(x), net.fc((three + net.layer3_r(three)).amax((2, 3))))


@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_activation_on_the_logits_is_an_option(slope):
    torch.manual_seed(0)
    with_it = build_model("lenet_wide", 10, slope=slope).eval()
    without = build_model("lenet_wide", 10, slope=slope, logit_activation=False).eval()
    without.load_state_dict(with_it.state_dict())
    x = torch.randn(4, 3, 64, 64)
    with torch.no_grad():
        logits, plain = with_it(x), without(x)
    assert plain.min() < 0
    torch.testing.assert_close(logits, torch.where(plain < 0, slope * plain, plain))


def test_first_activation_runs_twice():
    """As published: a slope of 0.1 becomes 0.01; a second ReLU changes nothing."""
    features = build_model("custom_net", 10, slope=0.1).features
    torch.testing.assert_close(features[2](features[1](torch.tensor([-1.0, 2.0]))), torch.tensor([-0.01, 2.0]))


@pytest.mark.parametrize("name", ["custom_net", "grouped_resnet"])
def test_convolutions_start_kaiming_normal(name):
    torch.manual_seed(0)
    for layer in build_model(name, 10).modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 20_000:
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


@pytest.mark.parametrize("settings", [{"padding": 1}, {"stride": 2}, {"padding": 2, "dilation": 2}])
def test_pairs_of_channels_are_computed_like_any_groups(settings):
    torch.manual_seed(0)
    fast = PairedConv2d(64, 64, 3, groups=32, bias=False, dtype=torch.float64, **settings)
    plain = nn.Conv2d(64, 64, 3, groups=32, bias=False, dtype=torch.float64, **settings)
    plain.load_state_dict(fast.state_dict())
    results = []
    for layer in (fast, plain):
        x = torch.linspace(-1, 1, 8 * 64 * 100, dtype=torch.float64).view(8, 64, 10, 10).requires_grad_()
        out = layer(x)
        results.append((out, *torch.autograd.grad(out.square().sum(), (x, layer.weight))))
    torch.testing.assert_close(*results)
    counts = {name: sum(isinstance(layer, PairedConv2d) for layer in build_model(name, 10).modules())
              for name in ("s7", "s7_mixed", "net")}
    assert counts == {"s7": 5, "s7_mixed": 5, "net": 0}
