"""Receptive fields against published numbers and against gradients, which know nothing of the arithmetic."""
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.errors import CourseError
from course_utils.models import MODELS, build_model
from course_utils.analysis.receptive_field import gradient_field, receptive_field


def extent(picture):
    """Side of the square in which the gradient is not 0, which must not touch the border."""
    rows, columns = (picture.amax(axis).nonzero()[:, 0] for axis in (1, 0))
    sides = [int(places[-1] - places[0] + 1) for places in (rows, columns)]
    assert sides[0] == sides[1] and rows[0] > 0 and rows[-1] < len(picture) - 1
    return sides[0]


def reaches_every_border(picture):
    return min(picture[0].amax(), picture[-1].amax(), picture[:, 0].amax(), picture[:, -1].amax()) > 0


@pytest.mark.parametrize(("name", "before", "after"), [("s7", 51, 61), ("s7_mixed", 53, 63), ("net", 95, 119)])
def test_the_published_fields_before_and_after_the_pooling(name, before, after):
    rows = receptive_field(build_model(name, 10), (1, 3, 32, 32))
    pool = next(k for k, row in enumerate(rows) if row.size_out == 1)
    assert (rows[pool - 1].field, rows[pool].field, rows[-1].field) == (before, after, after)


def test_a_row_by_hand():
    """The dilated convolution of ``net``: jump 2, so two pixels further each way twice over: 11 + 2 * 2 * 2 = 19."""
    row = receptive_field(build_model("net", 10), (1, 3, 32, 32))[4]
    assert row.layer == "conv2.4" and (row.kernel, row.stride, row.dilation, row.padding) == (3, 1, 2, 2)
    assert (row.size_in, row.size_out, row.jump, row.field) == (16, 16, 2, 19)


@pytest.mark.parametrize("name", [name for name in MODELS if "stn" not in name and name != "sign_net"])
def test_gradients_agree_on_the_course_s_networks(name):
    """Up to the last layer that slides; a linear layer or an adaptive pooling behind it sees all there is."""
    model = build_model(name, 10)
    model = getattr(model, "features", model)  # what precedes such a head
    rows = receptive_field(model, (1, 3, 32, 32))
    field = max(row.field for row in rows if row.what in ("conv2d", "max_pool2d", "avg_pool2d"))  # of all branches
    side = 32 * (field // 32 + 3)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert extent(gradient_field(model, (1, 3, side, side))) == field
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


class Branches(nn.Module):
    """Two paths of different reach, added or laid side by side; functions called directly."""

    def __init__(self, seed):
        super().__init__()
        self.rng = random.Random(seed)
        self.stem = self.layers(3, 1)
        self.stride = self.rng.choice([1, 2])
        self.one, self.two = self.layers(6, 1), self.layers(6, 3)
        self.side_by_side = self.rng.random() < 0.5
        self.end = nn.Conv2d(12 if self.side_by_side else 6, 4, 3, padding=1)

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
        return self.end(torch.cat([one, two], 1) if self.side_by_side else one + two)


@pytest.mark.parametrize("seed", range(10))
def test_gradients_agree_on_random_networks_with_branches(seed):
    model = Branches(seed)
    expected = receptive_field(model, (1, 3, 64, 64))[-1].field
    assert extent(gradient_field(model, (1, 3, 128, 128), seed=seed)) == expected


@pytest.mark.parametrize("head", [
    lambda x, linear: linear(x.flatten(1)), lambda x, linear: x.mean((2, 3)), lambda x, linear: x.amax((2, 3)),
    lambda x, linear: F.adaptive_avg_pool2d(x, 1), lambda x, linear: linear(x.view(len(x), -1)),
])
def test_a_head_sees_every_place(head):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 2, 3, stride=2), nn.Linear(2 * 7 * 7, 5)

        def forward(self, x):
            return head(self.conv(x), self.linear)

    rows = receptive_field(Net(), (1, 3, 16, 16))
    assert [row.field for row in rows] == [3, 15] and rows[-1].size_out == 1  # 3 + 6 * 2


def test_a_spatial_transformer_sees_the_whole_image():
    plain, behind = (receptive_field(build_model(name, 10), (1, 3, 32, 32)) for name in ("lenet", "lenet_stn"))
    assert plain[0].field == 5 and next(row for row in behind if "features.0" in row.layer).field >= 32


class Odd(nn.Module):
    """A stem of field 3 on 16 x 16 pixels, and then whatever is asked for."""

    def __init__(self, then):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.linear, self.up, self.then = nn.Linear(4, 4), nn.ConvTranspose2d(4, 4, 2, 2), then

    def forward(self, x):
        return self.then(self, self.stem(x))


@pytest.mark.parametrize(("then", "field"), [
    (lambda net, x: net.conv(net.linear(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)), 5),  # channels last: pointwise
    (lambda net, x: F.conv2d(input=x, weight=net.conv.weight), 5),
    (lambda net, x: F.max_pool2d(x, 2, return_indices=True)[0], 4),
    (lambda net, x: x.flatten(2).mean(-1), 18),
    (lambda net, x: x.flatten(2).max(-1)[0], 18),
    (lambda net, x: torch.mean(input=x, dim=(2, 3)), 18),
    (lambda net, x: x * x.mean(1, keepdim=True), 3),  # over channels
    (lambda net, x: (x[:, :, 3:-3, 3:-3] + F.conv2d(x, net.conv.weight, dilation=3)).mean((2, 3)), 18),
    (lambda net, x: F.pixel_unshuffle(x, 2), 4),
    (lambda net, x: F.adaptive_avg_pool2d(x, (None, 1)), 18),
    (lambda net, x: F.conv2d(x, net.conv.weight[:, :, :1]), 5),  # 1 down, 3 across
    (lambda net, x: x.permute(0, 2, 3, 1).mean((1, 2)), 18),
    (lambda net, x: torch.cat([x.flatten(1), net.conv(x).flatten(1)], 1) @ torch.ones(2048, 5), 20),
    (lambda net, x: x.var((2, 3)), 18),
    (lambda net, x: (x @ torch.ones(16, 5)), 18),  # across alone
    (lambda net, x: (torch.ones(4, 1, 1) * x).norm(dim=(2, 3)), 18),
    (lambda net, x: torch.var_mean(x, (2, 3))[1], 18),
    (lambda net, x: net.conv(torch.max(x, other=x / x.norm(2, 1, keepdim=True))), 5),
    (lambda net, x: net.conv(torch.ones(()) * x + torch.where(x > 0, x, -x)), 5),
    (lambda net, x: F.linear(input=x.flatten(1), weight=torch.ones(5, 1024)), 18),
    (lambda net, x: F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(x, 5), 1), 18),
    (lambda net, x: F.adaptive_avg_pool2d(F.adaptive_avg_pool2d(x, 1), 7).flatten(1).sum(1), 18),
    (lambda net, x: torch.stack([x.mean(), x.sum()]), 18),
])
def test_other_ways_to_write_it(then, field):
    assert receptive_field(Odd(then), (1, 3, 16, 16))[-1].field == field


def tokens(net, x):
    """There and back, as a transformer lays a map out."""
    found = net.linear(x.flatten(2).transpose(1, 2))  # (N, H W, C)
    return net.conv(found.mT.unflatten(2, x.shape[2:]))


@pytest.mark.parametrize("then", [
    lambda net, x: net.conv(x[:, :, ::2, ::2]), tokens,
    lambda net, x: net.conv(x[..., 2:, 2:] + F.conv2d(x, net.conv.weight)),
    lambda net, x: net.conv(torch.cat([half + half.roll(1, 1) for half in x.chunk(2, 1)], 1)),
    lambda net, x: net.conv(F.pad(x[:, :3, ::2, ::2], (0, 0, 0, 0, 0, 1))),  # a shortcut without parameters
    lambda net, x: net.conv(F.conv2d(F.pad(x, (2, 2, 2, 2), mode="reflect"), net.conv.weight) + F.pad(x, (1, 1, 1, 1))),
    lambda net, x: net.conv(torch.stack([x, net.conv(x)]).amax(0)),
    lambda net, x: net.conv(x * net.linear(x.mean((2, 3))).sigmoid()[..., None, None])[:, :, ::3, ::3],
])
def test_gradients_agree_however_it_is_written(then):
    """Where the whole image counts (the last), a gradient reaches its every border."""
    model = Odd(then)
    fields = [receptive_field(model, (1, 3, 64, 64), axis)[-1].field for axis in (-1, -2)]
    assert fields[0] == fields[1]
    picture = gradient_field(model, (1, 3, 64, 64))
    if fields[0] < 64:
        assert extent(picture) == fields[0]
    else:
        assert reaches_every_border(picture)


def attention(net, x):
    places = x.flatten(2).transpose(1, 2)
    return net.conv(F.scaled_dot_product_attention(places, places, places).mT.reshape(x.shape))


def attention_by_hand(net, x):
    places = x.flatten(2)
    return net.conv(((places.mT @ places).softmax(-1) @ places.mT).mT.unflatten(2, (16, 16)))


def class_token(net, x):
    token = torch.zeros(1, 1, 4)
    places = torch.cat([token, x.flatten(2).mT], 1)
    return net.linear((places + F.scaled_dot_product_attention(places, places, places))[:, 0])


@pytest.mark.parametrize("then", [
    attention, attention_by_hand, class_token, lambda net, x: net.conv(x.flatten(2).softmax(-1).view_as(x)),
    lambda net, x: net.linear(F.scaled_dot_product_attention(torch.ones(1, 1, 4), *[x.flatten(2).mT] * 2)[:, 0]),
    lambda net, x: net.conv(torch.cat([x[:, :2], x.mean((2, 3), keepdim=True).expand_as(x)[:, :2]], 1)),
    lambda net, x: net.conv(x + F.interpolate(x.mean((2, 3), keepdim=True), x.shape[2:])),
    lambda net, x: (x.flatten(2) @ x.flatten(2).mT).flatten(1),  # of channels
])
def test_attention_sees_every_place(then):
    assert receptive_field(Odd(then), (1, 3, 16, 16))[-1].field >= 18


@pytest.mark.parametrize("name", [name for name in MODELS if "stn" in name or name == "sign_net"])
def test_gradients_reach_the_whole_image_through_a_spatial_transformer(name):
    model = build_model(name, 10)
    assert receptive_field(model, (1, 3, 32, 32))[-1].field >= 32
    picture = gradient_field(model, (1, 3, 32, 32), draws=4, positive=False)
    assert reaches_every_border(picture)


def test_each_axis_has_its_own_field():
    model = nn.Sequential(nn.Conv2d(3, 2, (5, 1)), nn.Conv2d(2, 2, (1, 3), stride=(1, 2)))
    across, down = (receptive_field(model, (1, 3, 16, 16), axis) for axis in (-1, -2))
    assert [row.field for row in across] == [1, 3] and [row.field for row in down] == [5, 5]
    assert (across[-1].size_out, across[-1].jump) == (7, 2) and (down[-1].size_out, down[-1].jump) == (12, 1)


@pytest.mark.parametrize(("then", "name"), [
    (lambda net, x: net.up(x), "conv_transpose2d"), (lambda net, x: F.interpolate(x, 32), "interpolate"),
    (lambda net, x: F.lp_pool2d(x, 2, 2), "pool"),
    (lambda net, x: x.reshape(1, 4, 8, 2, 8, 2).mean((3, 5)), "reshape"), (lambda net, x: x + x.roll(3, -1), "roll"),
    (lambda net, x: x + x.transpose(2, 3), "add"),
    (lambda net, x: torch.einsum("nchw,nchw->nc", x, x), "einsum"), (lambda net, x: x.sort(-1)[0], "sort"),
    (lambda net, x: net.conv(torch.cat([x, net.conv(x)], 3)), "conv2d"),
    (lambda net, x: torch.zeros_like(x).copy_(x), "copy_"),
    (lambda net, x: x[:, :2].add_(net.conv(x)[:, :2]), "add_"),
    (lambda net, x: x[:, x.mean((0, 2, 3)).argsort()], "getitem"),
    (lambda net, x: net.conv(torch.from_numpy(x.numpy())), "something that is no function of torch"),
    (lambda net, x: net.conv(x.repeat(1, 1, 1, 2)), "conv2d"),
])
def test_what_cannot_be_followed_is_said(then, name):
    with pytest.raises(CourseError, match=f"behind .*{name}"):
        receptive_field(Odd(then), (1, 3, 16, 16))


def test_the_effective_field_is_faint_at_its_rim():
    picture = gradient_field(build_model("s7", 10), (1, 3, 96, 96), draws=3, positive=False)
    middle, rim = picture[40:56, 40:56].mean(), picture[18:22, 40:56].mean()
    assert middle > 5 * rim
