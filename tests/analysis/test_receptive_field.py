"""Receptive fields against published numbers and against gradients, which know nothing of the arithmetic."""
import itertools
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.analysis.gradient_field import gradient_field
from course_utils.analysis.receptive_field import receptive_field_table, trace_fields
from course_utils.models import MODELS, build_model

BEST = {"DilatedNet": "cifar10_dilated_depthwise", "SignNet": "gtsrb_stn", "ResidualNet": "stl10_versions"}
PUBLISHED = {  # the largest field in the first edition's tables; of resnet18 by hand, as its strides changed
    "custom_resnet": 88, "s7": 61, "s7_mixed": 63, "net": 119, "lenet": 32, "vgg16": 212, "resnet34": 122,
    "resnet18": 113, "lenet_stn": 154, "vgg16_stn": 334, "resnet34_stn": 244, "lenet_wide": 165, "custom_net": 195,
    "custom_net_256": 197, "grouped_resnet": 283, "DilatedNet": 74, "SignNet": 524, "ResidualNet": 233}
STL10 = ("lenet_wide", "custom_net", "custom_net_256", "grouped_resnet", "ResidualNet")


def build(name):
    return build_model(f"assignments/{BEST[name]}/best_net.py:{name}" if name in BEST else name, 10,
                       96 if name in STL10 else 32)


def fields(model, size=32, axis=-1):
    """Of all layers; None when one is unknown."""
    tracer = trace_fields(model, (1, 3, size, size), axis)
    return None if tracer.unknown_after else [layer.field for layer in tracer.layers]


def extent(image):
    """Side of the square in which the gradient is not 0, which must not touch the border."""
    rows, columns = (image.amax(axis).nonzero()[:, 0] for axis in (1, 0))
    sides = [int(places[-1] - places[0] + 1) for places in (rows, columns)]
    assert sides[0] == sides[1] and rows[0] > 0 and rows[-1] < len(image) - 1
    return sides[0]


def reaches_every_border(image):
    return min(image[0].amax(), image[-1].amax(), image[:, 0].amax(), image[:, -1].amax()) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [*MODELS, *BEST])
def test_fields_of_all_networks_equal_the_first_edition_s(name):
    model = build(name)
    for axis in (-1, -2):
        assert max(fields(model, 96 if name in STL10 else 32, axis)) == PUBLISHED[name]


@pytest.mark.parametrize(("name", "before", "after"), [("s7", 51, 61), ("s7_mixed", 53, 63), ("net", 95, 119)])
def test_fields_before_and_after_the_pooling_are_the_published_ones(name, before, after):
    layers = trace_fields(build_model(name, 10), (1, 3, 32, 32)).layers
    pool = next(k for k, layer in enumerate(layers) if layer.size_out == 1)
    assert (layers[pool - 1].field, layers[pool].field, layers[-1].field) == (before, after, after)


def test_one_layer_calculated_by_hand():
    """The dilated convolution of ``net``: jump 2, so two pixels further each way twice over: 11 + 2 * 2 * 2 = 19."""
    layers = trace_fields(build_model("net", 10), (1, 3, 32, 32)).layers
    layer = layers[4]
    assert layer.name == "conv2.4" and (layer.kernel, layer.stride, layer.dilation, layer.padding) == (3, 1, 2, 2)
    assert (layer.size_in, layer.size_out, layer.jump, layer.field) == (16, 16, 2, 19)
    assert receptive_field_table(layers).splitlines()[5].split()[1:] == list(map(str, (3, 1, 2, 2, 16, 16, 2, 19)))


@pytest.mark.parametrize("name", [name for name in [*MODELS, *BEST] if "stn" not in name and name != "SignNet"])
def test_gradients_agree_on_the_course_s_networks(name):
    """Up to the last layer with a window; a linear layer or an adaptive pooling after it depends on everything."""
    model = build(name)
    model = getattr(model, "vgg", model)
    model = getattr(model, "features", model)  # what comes before such a head
    for block in [*model.modules()]:  # a group norm depends on the whole image, which is not counted
        for child in [key for key, value in block.named_children() if isinstance(value, nn.GroupNorm)]:
            setattr(block, child, nn.Identity())
    layers = trace_fields(model, (1, 3, 32, 32)).layers
    windows = itertools.takewhile(lambda layer: layer.op in ("conv2d", "max_pool2d", "avg_pool2d"), layers)
    field = max(layer.field for layer in windows)
    side = 32 * (field // 32 + 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert extent(gradient_field(model, (1, 3, side, side))) == field
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["lenet_stn", "resnet34_stn", "SignNet"])
def test_gradients_reach_the_whole_image_through_a_spatial_transformer(name):
    model = build(name)
    behind = next(layer for layer in trace_fields(model, (1, 3, 32, 32)).layers if "grid_sample" in layer.op)
    assert behind.field >= 32
    assert reaches_every_border(gradient_field(model, (1, 3, 32, 32), draws=4, positive=False))


class Branches(nn.Module):
    """Two paths of different fields, added or concatenated; functions called directly."""

    def __init__(self, seed):
        super().__init__()
        self.rng = random.Random(seed)
        self.stem = self.layers(3, 1)
        self.stride = self.rng.choice([1, 2])
        self.one, self.two = self.layers(6, 1), self.layers(6, 3)
        self.concatenate = self.rng.random() < 0.5
        self.end = nn.Conv2d(12 if self.concatenate else 6, 4, 3, padding=1)

    def layers(self, inputs, count):
        out = []
        for _ in range(count):
            kernel, dilation = self.rng.choice([1, 3, 5]), self.rng.choice([1, 2, 3])
            out += [nn.Conv2d(inputs, 6, kernel, padding=dilation * (kernel - 1) // 2, dilation=dilation), nn.ReLU()]
            inputs = 6
        return nn.Sequential(*out)

    def forward(self, x):
        x = F.max_pool2d(self.stem(x), 3, self.stride, padding=1)
        one, two = self.one(x), self.two(x)
        return self.end(torch.cat([one, two], 1) if self.concatenate else one + two)


@pytest.mark.parametrize("seed", range(6))
def test_gradients_agree_on_random_networks_with_branches(seed):
    model = Branches(seed)
    assert extent(gradient_field(model, (1, 3, 128, 128), seed=seed)) == fields(model, 64)[-1]


class Student(nn.Module):
    """A stem of field 3, then what ``then`` does with its map (N, 8, H, W), then another 3x3 convolution."""

    def __init__(self, then, end=True):
        super().__init__()
        self.stem, self.conv, self.tail = (nn.Conv2d(n, 8, 3, padding=1) for n in (3, 8, 8))
        self.reflect = nn.Conv2d(8, 8, 5, padding=2, padding_mode="reflect")
        self.linear, self.wide, self.depthwise = nn.Linear(8, 8), nn.Conv2d(8, 32, 1), nn.Conv2d(8, 8, 7, 1, 3, 1, 8)
        self.attention, self.lstm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LSTM(8, 8, batch_first=True)
        self.up, self.scale = nn.ConvTranspose2d(8, 8, 2, 2), nn.Parameter(torch.zeros(1))
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=d, dilation=d) for d in (1, 2))
        self.then, self.end = then, end

    def forward(self, x):
        x = self.then(self, self.stem(x))
        return self.tail(x) if self.end else x


def channel_shuffle(net, x):
    n, c, h, w = x.shape
    return net.conv(x).view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def conv_next(net, x):
    return x + net.linear(F.layer_norm(net.depthwise(x).permute(0, 2, 3, 1), (8,))).permute(0, 3, 1, 2)


def dense_list(net, x):
    maps = [x]
    for block in net.blocks:
        maps.append(block(sum(maps)))
    return maps[-1]


def write_channels(net, x):
    out = torch.zeros_like(x)
    out[:, ::2] = net.conv(x)[:, ::2]
    return out


def spatial_attention(net, x):
    return x * net.conv(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)] * 4, 1)).sigmoid()


@pytest.mark.parametrize("then", [
    channel_shuffle, dense_list, spatial_attention, lambda net, x: net.reflect(x),
    lambda net, x: F.conv2d(F.pad(x, (2, 0, 2, 0), mode="replicate"), net.conv.weight),
    lambda net, x: torch.cat([net.conv(x).chunk(2, 1)[0], x.chunk(2, 1)[1]], 1),
    lambda net, x: F.relu_(net.conv(x)) + x,
    lambda net, x: x.view(1, 2, 4, *x.shape[2:]).mean(1).repeat(1, 2, 1, 1),
    lambda net, x: x + net.scale * net.conv(x), lambda net, x: net.conv(x.softmax(1)),
])
def test_gradients_agree_however_a_network_is_written(then):
    model = Student(then)
    across, down = (fields(model, 64, axis)[-1] for axis in (-1, -2))
    assert across == down == extent(gradient_field(model, (1, 3, 64, 64)))


@pytest.mark.parametrize("then", [
    conv_next, write_channels,
    lambda net, x: net.conv(x[:, :, ::2, ::2]), lambda net, x: x[:, :, 1:-1, 1:-1] + F.conv2d(x, net.conv.weight),
    lambda net, x: F.pad(x[:, :4, ::2, ::2], (0, 0, 0, 0, 2, 2)),  # a shortcut without parameters
    lambda net, x: torch.einsum("nchw,oc->nohw", x, net.linear.weight),
    lambda net, x: net.linear(x.flatten(2).mT).mT.unflatten(2, x.shape[2:]),
    lambda net, x: F.interpolate(x, scale_factor=0.5),
    lambda net, x: x + F.conv2d(x, net.conv.weight, padding=2)[:, :, 2:, 2:],
])
def test_a_field_is_right_or_unknown(then):
    model = Student(then)
    true = extent(gradient_field(model, (1, 3, 64, 64)))
    for found in (fields(model, 64, axis) for axis in (-1, -2)):
        assert found is None or found[-1] == true


def attend(net, x):
    tokens = x.flatten(2).mT
    return (tokens + net.attention(tokens, tokens, tokens)[0]).mT.reshape(x.shape)


@pytest.mark.parametrize(("then", "end"), [
    (attend, True), (lambda net, x: x * net.linear(x.mean((2, 3))).sigmoid()[..., None, None], True),
    (lambda net, x: net.conv(x.mean((2, 3), keepdim=True).expand_as(x)), True),
    (lambda net, x: F.linear(x.flatten(1), torch.ones(5, 8 * 16 * 16)), False),
    (lambda net, x: x.view(1, 8, -1).mean(-1), False), (lambda net, x: x.max(3)[0].max(2)[0], False),
    (lambda net, x: torch.cat(torch.var_mean(x, (2, 3)), 1), False), (lambda net, x: x.logsumexp((2, 3)), False),
    (lambda net, x: torch.cat([torch.zeros(1, 1, 8), x.flatten(2).mT], 1).sum(1), False),
    (lambda net, x: F.interpolate(x, scale_factor=2).mean((2, 3)), False),
])
def test_what_depends_on_the_whole_image_is_recognized_or_unknown(then, end):
    for axis in (-1, -2):
        found = fields(Student(then, end), 16, axis)
        assert found is None or max(found) >= 18  # 16 pixels and the padding


def write_into_view(net, x):
    x[:, :2].add_(net.conv(x)[:, :2])
    return x


def attention_by_hand(net, x):
    tokens = x.flatten(2)
    return ((tokens.mT @ tokens).softmax(-1) @ tokens.mT).mT.reshape(x.shape)


@pytest.mark.parametrize("then", [
    write_into_view, attention_by_hand, lambda net, x: nn.Upsample(scale_factor=2)(x), lambda net, x: net.up(x),
    lambda net, x: F.interpolate(x, 40, mode="bilinear"), lambda net, x: F.pixel_shuffle(net.wide(x), 2),
    lambda net, x: F.lp_pool2d(x, 2, 2), lambda net, x: F.adaptive_avg_pool2d(x, 5),
    lambda net, x: x + x.transpose(2, 3), lambda net, x: x + x.roll((3, 3), (2, 3)),
    lambda net, x: x.view(1, 8, 8, 2, 8, 2).mean((3, 5)),
    lambda net, x: x[:, :, [0, 1, 3, 7]][..., [0, 1, 3, 7]].mean((2, 3), keepdim=True),
    lambda net, x: net.lstm(x.flatten(2).mT)[0].mT.reshape(x.shape), lambda net, x: torch.from_numpy(x.numpy()),
    lambda net, x: x / x.max().item(), lambda net, x: x.cumsum(2).cumsum(3),
])
def test_what_cannot_be_followed_is_unknown_and_later_layers_are_still_listed(then):
    for axis in (-1, -2):
        tracer = trace_fields(Student(then), (1, 3, 16, 16), axis)
        last = tracer.layers[-1]
        assert tracer.layers[0].field == 3 and tracer.unknown_after
        assert (last.name, last.field) == ("tail", None) or tracer.unknown_after.startswith(("numpy", "item"))


def test_tracing_changes_neither_the_network_nor_the_random_state():
    model = Student(lambda net, x: F.dropout(net.conv(x), 0.5, training=True).mul_(net.scale + 1))
    before, state = {key: value.clone() for key, value in model.state_dict().items()}, torch.get_rng_state()
    assert fields(model, 16)[-1] == 7 and model.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_each_axis_has_its_own_field():
    model = nn.Sequential(nn.Conv2d(3, 2, (5, 1)), nn.Conv2d(2, 2, (1, 3), stride=(1, 2)))
    across, down = (trace_fields(model, (1, 3, 16, 16), axis).layers for axis in (-1, -2))
    assert [layer.field for layer in across] == [1, 3] and [layer.field for layer in down] == [5, 5]
    assert (across[-1].size_out, across[-1].jump) == (7, 2) and (down[-1].size_out, down[-1].jump) == (12, 1)


def test_effective_field_is_weak_at_its_border():
    image = gradient_field(build_model("s7", 10), (1, 3, 96, 96), draws=3, positive=False)
    assert image[40:56, 40:56].mean() > 5 * image[18:22, 40:56].mean()
