"""Building networks by name, their summaries and the image sizes that they accept."""
import dataclasses

import pytest
import torch
from torch import nn

from course_utils.analysis.diagram import network_diagram
from course_utils.errors import CourseError
from course_utils.models import build_model
from course_utils.models.summary import check_input_size, mult_adds, summary


def test_summary_and_mult_adds_are_the_published_ones():
    model = build_model("custom_resnet", 10)
    text = summary(model, (1, 3, 32, 32))
    for line in ("Total params: 6,573,130", "Total mult-adds (M): 379.27", "Params size (MB): 26.29"):
        assert line in text
    assert round(mult_adds(model, (1, 3, 32, 32)) / 1e6, 2) == 379.27
    assert model.training  # a summary does not change the mode


def test_unsuitable_image_size_is_rejected_with_the_smallest_possible_one():
    model = nn.Sequential(nn.Conv2d(3, 4, 5), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    check_input_size(model, 6)
    with pytest.raises(CourseError, match=r"cannot take images of 5x5 pixels: .* 6x6"):  # 5 - 4 = 1: nothing to pool
        check_input_size(model, 5)
    with pytest.raises(CourseError, match=r"of 9x9 pixels: .* 8x8"):
        check_input_size(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10)), 9)
    with pytest.raises(RuntimeError, match="channels"):  # it takes no image at all: the network's own error
        check_input_size(nn.Sequential(nn.Conv2d(4, 4, 1)), 8)


def test_unknown_names_are_rejected_with_the_legal_ones():
    with pytest.raises(CourseError, match=r"Unknown model: 'resnet'.*custom_resnet"):
        build_model("resnet", 10)
    with pytest.raises(CourseError, match="Legal: dropout"):
        build_model("custom_resnet", 10, depth=3)


def test_same_seed_builds_the_same_network():
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(build_model("s7", 10).state_dict())
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())


def test_a_network_without_a_table_or_without_blocks_stops_nothing():
    class Inner(nn.Module):
        def forward(self, x):
            return Pair(x)

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.layers = Inner(), nn.ModuleList([nn.Linear(3, 2)])

        def forward(self, x):
            return self.layers[0](self.inner(x=x).value.mean((2, 3)))

    assert "8 parameters" in summary(Odd(), (1, 3, 8, 8))
    assert network_diagram(Odd(), (1, 3, 8, 8), "odd").axes


@dataclasses.dataclass
class Pair:
    value: torch.Tensor
