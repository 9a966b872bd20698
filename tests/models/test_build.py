import pytest
import torch
from torch import nn

from course_utils.models import summary as anatomy
from course_utils.errors import CourseError
from course_utils.models import build_model

# The layers in the order in which the published network runs them: kind, channels or kernel, side of the output.
CONV, POOL, NORM = nn.Conv2d, nn.MaxPool2d, nn.BatchNorm2d
REST = [nn.ReLU, nn.Dropout]
PUBLISHED = [
    CONV, NORM, *REST, CONV, POOL, NORM, *REST, CONV, NORM, *REST, CONV, NORM, *REST, CONV, POOL, NORM, *REST,
    CONV, POOL, NORM, *REST, CONV, NORM, *REST, CONV, NORM, *REST, POOL, nn.Linear,
]


@pytest.fixture(scope="module")
def resnet():
    torch.manual_seed(0)
    return build_model("custom_resnet", 10)


def test_custom_resnet_has_the_published_size(resnet):
    assert anatomy.count_parameters(resnet) == 6_573_130
    assert round(anatomy.mult_adds(resnet, (1, 3, 32, 32)) / 1e6, 2) == 379.27


def test_custom_resnet_runs_the_published_layers(resnet):
    ran = []
    leaves = [m for m in resnet.modules() if not list(m.children())]
    hooks = [m.register_forward_hook(lambda m, *_: ran.append(type(m))) for m in leaves]
    resnet(torch.zeros(2, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    assert ran == PUBLISHED


def test_custom_resnet_has_the_published_block_sizes(resnet):
    sizes = [tuple(size[1:]) for _, size in anatomy.block_sizes(resnet, (1, 3, 32, 32))]
    assert sizes == [(64, 32, 32), (128, 16, 16), (128, 16, 16), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4),
                     (512, 4, 4), (512, 1, 1), (512,), (10,)]


def test_the_residual_sums():
    """Against the published order written out; and the residual blocks do matter."""
    torch.manual_seed(1)
    net = build_model("custom_resnet", 10).eval()
    x = torch.randn(2, 3, 32, 32)
    one = net.layer1_x(net.prep(x))
    one = one + net.layer1_r(one)
    three = net.layer3_x(net.layer2(one))
    three = three + net.layer3_r(three)
    expected = net.fc(three.amax((2, 3)))
    torch.testing.assert_close(net(x), expected)
    for block in (net.layer1_r, net.layer3_r):
        before = net(x)
        block[5].weight.data.mul_(2)
        assert (net(x) - before).abs().max() > 1e-3


def test_the_summary_is_the_published_one(resnet):
    text = anatomy.summary(resnet, (1, 3, 32, 32))
    for line in ("Total params: 6,573,130", "Total mult-adds (M): 379.27", "Params size (MB): 26.29"):
        assert line in text
    assert resnet.training  # a summary leaves the mode as it was


def test_blocks_that_give_maps(resnet):
    assert anatomy.map_sizes(resnet, (1, 3, 32, 32)) == {
        "prep": 32, "layer1_x": 16, "layer1_r": 16, "layer2": 8, "layer3_x": 4, "layer3_r": 4}
    whole = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sequential(nn.ReLU()), nn.Flatten()))
    assert anatomy.map_sizes(whole, (1, 3, 8, 8)) == {"0.0": 6, "0.1": 6}
    assert anatomy.map_sizes(nn.Sequential(nn.Flatten(), nn.Linear(192, 10)), (1, 3, 8, 8)) == {}


def test_a_side_too_small_is_refused_and_the_smallest_named():
    net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    anatomy.check_input_size(net, 6)
    with pytest.raises(CourseError, match=r"cannot take images of 5x5 pixels: .* 6x6"):  # 5 - 4 = 1: nothing to pool
        anatomy.check_input_size(net, 5)
    fixed = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    with pytest.raises(CourseError, match=r"of 9x9 pixels: .* 8x8"):
        anatomy.check_input_size(fixed, 9)
    with pytest.raises(RuntimeError, match="size"):  # one that takes no image at all: its own words
        anatomy.check_input_size(nn.Sequential(nn.Conv2d(4, 4, 1)), 8)


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="custom_resnet"):
        build_model("resnet", 10)
    with pytest.raises(ValueError, match="Legal: dropout"):
        build_model("custom_resnet", 10, depth=3)
