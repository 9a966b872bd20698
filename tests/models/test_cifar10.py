"""The depthwise nets layer by layer against the published order of execution.

A convolution is written "inputs>outputs side of the output", with k1 (1x1; else 3x3), s2 (stride), p (padding), d2
(dilation), g (groups); "r n o" are the ReLU, the batch norm and the dropout behind it, b stands for a bias.
"""
import pytest
import torch
from torch import nn

from course_utils.models.summary import count_parameters
from course_utils.models import build_model

S7 = """
3>64 32 p1 r n  64>64 32 p1 g32 r n 64>64 32 k1  64>64 32 p1 g32 r n 64>64 32 k1  64>64 32 p1 g32 r n 64>32 32 k1
32>32 28 d2 r n  32>32 26 r n
32>32 26 p1 g32 r n 32>64 26 k1  64>64 26 p1 g64 r n 64>64 26 k1  64>64 26 p1 g64 r n 64>32 26 k1
32>32 22 d2 r n  32>32 20 r n
32>32 20 p1 g32 r n 32>64 20 k1  64>64 20 p1 g32 r n 64>64 20 k1  64>64 20 p1 g32 r n 64>32 20 k1
32>32 10 s2 p1  32>32 8 r n  32>16 6 r n  16>16 6 p2 d2 r n  mean6 1  16>10 1 k1"""
S7_MIXED = """
3>32 32 p1 r n  32>64 32 p1 r n  64>64 32 p1 g32 r n  64>64 32 p1 g32 r n  64>64 32 p1 g32 r n 64>32 32 k1
32>32 28 d2 r n  32>32 26 r n
32>32 26 p1 g32 r n 32>64 26 k1  64>64 26 p1 g64 r n  64>64 26 p1 g64 r n 64>32 26 k1
32>32 22 d2 r n  32>32 20 r n
32>32 20 p1 g32 r n 32>64 20 k1  64>64 20 p1 g32 r n  64>64 20 p1 g32 r n 64>32 20 k1
32>32 10 s2 p1  32>32 8 r n  32>16 8 k1  16>16 6 r n  16>16 6 p2 d2 r n  mean6 1  16>10 1 k1"""


NET = """
3>44 32 p1 r n o  44>44 32 p1 r n o  44>44 16 s2 p1 r n o  44>44 16 p1 r n o  44>44 16 p2 d2 r n o  44>44 8 s2 p1 r n o
44>44 8 p1 r n o  44>44 8 p1 r n o  44>44 4 s2 p1 r n o  44>44 4 p1 r n o  44>44 4 p1 r n o
44>44 4 p1 g44 b 44>44 4 k1 b r n o  mean4 1  linear10"""


def written(layer, side):
    if isinstance(layer, nn.ReLU):
        return "r"
    if isinstance(layer, nn.BatchNorm2d):
        return "n"
    if isinstance(layer, nn.AvgPool2d):
        return f"mean{layer.kernel_size} {side}"
    if isinstance(layer, nn.Dropout):
        return "o"
    if isinstance(layer, nn.Linear):
        assert layer.bias is None
        return f"linear{layer.out_features}"
    marks = [("k", layer.kernel_size[0], 3), ("s", layer.stride[0], 1), ("p", layer.padding[0], 0),
             ("d", layer.dilation[0], 1), ("g", layer.groups, 1)]
    bias = ["b"] if layer.bias is not None else []
    return " ".join([f"{layer.in_channels}>{layer.out_channels} {side}",
                     *(f"{mark}{value}" for mark, value, usual in marks if value != usual), *bias])


@pytest.mark.parametrize(("name", "parameters", "text"), [
    ("s7", 99_744, S7), ("s7_mixed", 99_200, S7_MIXED), ("net", 179_344, NET)])
def test_layer_by_layer_as_published(name, parameters, text):
    model = build_model(name, 10).eval()
    assert count_parameters(model) == parameters
    ran = []
    leaves = [module for module in model.modules() if not list(module.children())]
    for leaf in leaves:
        leaf.register_forward_hook(lambda layer, _, output: ran.append(written(layer, output.shape[-1])))
    with torch.no_grad():
        y = model(torch.randn(3, 3, 32, 32))
    assert " ".join(ran).split() == text.split()
    torch.testing.assert_close(y.exp().sum(1), torch.ones(3))


def test_resnet18_is_torchvision_s_but_for_stem_pooling_and_bias():
    """Parameters counted by the formula of its stages; and the shortcuts matter."""
    model = build_model("resnet18", 10).eval()
    stages = [(64, 64), (64, 128), (128, 256), (256, 512)]
    blocks = sum(9 * a * b + 27 * b * b + 8 * b + (a * b + 2 * b if a != b else 0) for a, b in stages)
    assert count_parameters(model) == 27 * 64 + 128 + blocks + 5120 == 11_173_952
    sides = []
    for layer in (model.layer1, model.layer2, model.layer3, model.layer4):
        layer.register_forward_hook(lambda _, __, output: sides.append(tuple(output.shape[1:])))
    with torch.no_grad():
        before = model(torch.ones(2, 3, 32, 32))
        assert sides == [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4)] and before.shape == (2, 10)
        model.layer2[0].shortcut[0].weight.mul_(2)
        assert (model(torch.ones(2, 3, 32, 32)) - before).abs().max() > 1e-3


def test_our_own_keeps_within_the_parameters():
    assert count_parameters(build_model("dilated_net", 10)) == 182_106
