import time

import numpy as np
import pytest
import torch

from course_utils import sample
from course_utils.experiment import CourseError


@pytest.mark.parametrize(("name", "side"), [("cifar10", 32), ("stl10", 96)])
def test_form_and_balance(name, side):
    arrays = sample.draw(name, {"train": 200, "test": 50}, seed=3)
    assert arrays["train_images"].shape == (200, side, side, 3)
    assert arrays["train_images"].dtype == np.uint8 and arrays["train_labels"].dtype == np.int64
    assert (np.bincount(arrays["test_labels"]) == 5).all()
    assert not np.array_equal(arrays["train_images"][:50], arrays["test_images"])


def test_deterministic():
    first, again, other = (sample.draw("cifar10", {"train": 100}, seed)["train_images"] for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_quick():
    """Under 2 s for 2,000 images, the best of three: a busy machine is not the drawing's fault."""
    for name in sample.SIDE:
        seconds = []
        for _ in range(3):
            begun = time.perf_counter()
            sample.draw(name, {"train": 2000}, 0)
            seconds.append(time.perf_counter() - begun)
        assert min(seconds) < 2, name


def test_a_linear_classifier_fails_on_it():
    """Logistic regression on the pixels of 2,000 images, tested on 1,000 others."""
    arrays = sample.draw("cifar10", {"train": 2000, "test": 1000}, 0)
    x, x_test = (torch.from_numpy(arrays[f"{s}_images"]).flatten(1).float() / 255 - 0.5 for s in ("train", "test"))
    y, y_test = (torch.from_numpy(arrays[f"{s}_labels"]) for s in ("train", "test"))
    torch.manual_seed(0)
    linear = torch.nn.Linear(x.shape[1], 10)
    optimizer = torch.optim.AdamW(linear.parameters(), 1e-3, weight_decay=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(linear(x), y).backward()
        optimizer.step()
    assert (linear(x).argmax(1) == y).float().mean() > 0.6  # it did learn its own images
    assert (linear(x_test).argmax(1) == y_test).float().mean() < 0.6


def test_its_classes_are_not_the_real_ones():
    from course_utils.acquire import SOURCES

    assert not set(sample.CLASSES["cifar10"]) & set(SOURCES["cifar10"].classes)


def test_unknown():
    with pytest.raises(CourseError, match="cifar10, gtsrb, stl10"):
        sample.draw("mnist", {"train": 10}, 0)
