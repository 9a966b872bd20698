"""Receptive fields against published numbers and against gradients, which know nothing of the arithmetic."""
import random

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_utils.models import build_model
from course_utils.receptive import gradient_field, receptive_field


def extent(picture):
    """Side of the square in which the gradient is not 0, which must not touch the border."""
    rows, columns = (picture.amax(axis).nonzero()[:, 0] for axis in (1, 0))
    sides = [int(places[-1] - places[0] + 1) for places in (rows, columns)]
    assert sides[0] == sides[1] and rows[0] > 0 and rows[-1] < len(picture) - 1
    return sides[0]


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


@pytest.mark.parametrize(("name", "side"), [("s7", 96), ("s7_mixed", 96), ("net", 192), ("resnet18", 192),
                                            ("custom_resnet", 160), ("lenet", 64)])
def test_gradients_agree_on_the_course_s_networks(name, side):
    """The last map is that behind the last pooling, which on so large an image is no single number yet."""
    model = build_model(name, 10)
    rows = receptive_field(model, (1, 3, 32, 32))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert extent(gradient_field(model, (1, 3, side, side))) == rows[-1].field
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


def test_what_is_not_square_is_refused():
    with pytest.raises(ValueError, match="equal sides"):
        receptive_field(nn.Sequential(nn.Conv2d(3, 2, (3, 1))), (1, 3, 8, 8))


def test_the_effective_field_is_faint_at_its_rim():
    picture = gradient_field(build_model("s7", 10), (1, 3, 96, 96), draws=3, positive=False)
    middle, rim = picture[40:56, 40:56].mean(), picture[18:22, 40:56].mean()
    assert middle > 5 * rim
