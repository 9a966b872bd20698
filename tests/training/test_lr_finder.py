import copy

import pytest
import torch
from helpers import toy_loader, toy_model
from torch import nn

from course_utils.errors import CourseError
from course_utils.training.lr_finder import LRFinderResult, choose_lr, find_lr


def test_the_range_test_finds_the_edge_and_touches_nothing(tiny, machine, tmp_path):
    model = toy_model()
    before = copy.deepcopy(model.state_dict())
    exp = tiny.replace(optimizer="sgd", momentum=0.0, lr_finder_steps=60)
    batches = toy_loader(shuffle=True)
    batches.labels = batches.labels[torch.randperm(64).numpy()]  # nothing to learn, so that a large rate must do harm
    found = find_lr(exp, model, batches, machine, low=1e-3, high=1e4, folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values()))
    ratios = [b / a for a, b in zip(found.lrs, found.lrs[1:])]
    assert max(ratios) == pytest.approx(min(ratios)) and found.lrs[0] == pytest.approx(1e-3)
    lowest = found.lrs[found.losses.index(min(found.losses))]
    assert found.suggestion == pytest.approx(lowest / 10**0.5)
    assert found.lrs[0] < found.suggestion < found.lrs[-1] and len(found.lrs) < 60  # it stopped when the loss left
    kept = find_lr(exp.replace(epochs=9), nn.Linear(1, 1), toy_loader(), machine, folder=tmp_path)
    assert kept == found  # the number of epochs does not concern it


@pytest.mark.parametrize("losses", [[float(k) for k in range(20)], [2.3, 9.9], [float("nan")]])
def test_a_range_test_that_only_rises_says_so(losses, tiny):
    found = LRFinderResult([10.0**k for k in range(len(losses))], losses)
    assert found.suggestion is None and choose_lr(tiny.replace(lr=0.3), found) == 0.3
    with pytest.raises(CourseError, match="no falling loss"):
        choose_lr(tiny.replace(lr=None), found)


def test_the_first_losses_of_a_range_test_do_not_count(tiny):
    """Each is the mean of one or a few batches: the lowest of all by chance."""
    losses = [1.0, 2.3, 2.2, 2.3, 2.3, 2.3, 2.2, 2.0, 2.1, 9.9]
    found = LRFinderResult([10.0**k for k in range(10)], losses)
    assert found.suggestion == pytest.approx(10**6.5)
    assert choose_lr(tiny.replace(lr=None), found) == found.suggestion


def test_a_damaged_range_test_is_made_anew(tiny, machine, tmp_path):
    (tmp_path / "lr_range.json").write_text('{"lrs": [0.1')
    exp = tiny.replace(lr_finder_steps=10)
    found = find_lr(exp, toy_model(), toy_loader(), machine, folder=tmp_path)
    assert found == find_lr(exp, toy_model(), toy_loader(), machine, folder=tmp_path)
