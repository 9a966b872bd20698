import contextlib
import copy
import json

import pytest
import torch
from helpers import all_weights, toy_loader, toy_model

from course_utils.errors import CourseError
from course_utils.training.lr_finder import LRFinderResult, choose_lr, find_lr


def test_the_range_test_finds_the_edge_and_does_not_change_the_model(tiny, tmp_path):
    model = toy_model()
    before = copy.deepcopy(model.state_dict())
    exp = tiny.replace(optimizer="sgd", momentum=0.0, lr_finder_steps=60)
    batches = toy_loader(shuffle=True)
    batches.labels = batches.labels[torch.randperm(64).numpy()]  # nothing to learn, so that a large rate must do harm
    result = find_lr(exp, model, batches, low=1e-3, high=1e4, folder=tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values()))
    ratios = [b / a for a, b in zip(result.lrs, result.lrs[1:])]
    assert max(ratios) == pytest.approx(min(ratios)) and result.lrs[0] == pytest.approx(1e-3)
    assert result.suggestion == pytest.approx(result.lrs[result.losses.index(min(result.losses))] / 10**0.5)
    assert result.lrs[0] < result.suggestion < result.lrs[-1]
    assert len(result.lrs) < 60 and result.losses[-1] > 4 * min(result.losses)  # it stopped when the loss exploded


def test_the_result_is_kept_for_the_same_experiment_alone(tiny, tmp_path):
    exp = tiny.replace(lr_finder_steps=10)
    result = find_lr(exp, toy_model(), toy_loader(), folder=tmp_path / "new")
    assert find_lr(exp, toy_model(seed=1), toy_loader(), folder=tmp_path / "new") == result  # not measured again
    for change in ({"epochs": 5}, {"seed": 1}):
        assert find_lr(exp.replace(**change), toy_model(seed=1), toy_loader(), folder=tmp_path / "new") != result
    other = toy_loader()
    other.images = 255 - other.images
    assert find_lr(exp, toy_model(), other, folder=tmp_path / "new") != result


@pytest.mark.parametrize("damage", [
    lambda text: text[:20], lambda text: "[]", lambda text: text.replace('"lrs"', '"rates"'),
    lambda text: json.dumps(json.loads(text) | {"lrs": [0.1]}),
    lambda text: json.dumps(json.loads(text) | {"losses": ["a"] * 10}),
])
def test_a_damaged_result_is_measured_again(tiny, tmp_path, damage):
    exp, path = tiny.replace(lr_finder_steps=10), tmp_path / "lr_range.json"
    result = find_lr(exp, toy_model(), toy_loader(), folder=tmp_path)
    text = path.read_text()
    path.write_text(damage(text))
    assert find_lr(exp, toy_model(), toy_loader(), folder=tmp_path) == result and path.read_text() == text


@pytest.mark.parametrize(("losses", "expected"), [
    ([*map(float, range(20))], None), ([2.3, 9.9], None), ([float("nan")], None), ([float("nan")] * 9, None),
    ([1.0, 2.3, 2.2, 2.3, 2.3, 2.3, 2.2, 2.0, 2.1, 9.9], 10**6.5),  # the first are low by chance and do not count
])
def test_the_rate_is_below_the_lowest_loss_or_must_be_chosen(tiny, losses, expected):
    result = LRFinderResult([10.0**k for k in range(len(losses))], losses)
    assert result.suggestion == (expected and pytest.approx(expected))
    assert choose_lr(tiny.replace(lr=0.3), result) == 0.3
    refused = pytest.raises(CourseError, match=r"The loss did not fall in the LR range test.*--set lr=0\.01")
    with contextlib.nullcontext() if expected else refused:
        assert choose_lr(tiny.replace(lr=None), result) == result.suggestion


def test_an_interrupted_range_test_leaves_the_model_as_it_was(tiny):
    model, steps = toy_model(), 0
    before = all_weights(model).clone()

    def interrupt(module, _):
        nonlocal steps
        steps += module.training
        if steps == 4:
            raise KeyboardInterrupt

    model.register_forward_pre_hook(interrupt)
    with pytest.raises(KeyboardInterrupt):
        find_lr(tiny.replace(lr_finder_steps=10), model, toy_loader())
    assert torch.equal(all_weights(model), before) and all(p.grad is None for p in model.parameters())
