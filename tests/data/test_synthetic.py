import time

import numpy as np
import pytest
import torch

from course_utils.data import synthetic as sample
from course_utils.errors import CourseError
from course_utils.data.signs import SIGNS, draw_sign
from course_utils.data.sources import SOURCES


@pytest.mark.parametrize(("name", "side"), [("cifar10", 32), ("stl10", 96)])
def test_form_and_balance(name, side):
    arrays = sample.draw(name, {"train": 200, "test": 50}, seed=3)
    assert arrays["train_images"].shape == (200, side, side, 3)
    assert arrays["train_images"].dtype == np.uint8 and arrays["train_labels"].dtype == np.int64
    assert (np.bincount(arrays["test_labels"]) == 5).all()
    assert not np.array_equal(arrays["train_images"][:50], arrays["test_images"])


@pytest.mark.parametrize("name", ["cifar10", "gtsrb"])
def test_deterministic(name):
    first, again, other = (sample.draw(name, {"train": 100}, seed)["train_images"] for seed in (5, 5, 6))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_quick():
    """Under 4 s of processor time for 2,000 images, which two cores do in 2 s however busy they are otherwise."""
    for name in sample.SIDE:
        begun = time.process_time()
        sample.draw(name, {"train": 2000}, 0)
        assert time.process_time() - begun < 4, name


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
    assert not set(sample.CLASSES["cifar10"]) & set(SOURCES["cifar10"].classes)


def test_signs_come_in_tracks():
    """Pictures of a track are alike, and nearer to each other than to the class's other tracks."""
    arrays = sample.draw("gtsrb", {"train": 43 * 12, "test": 43}, 1)
    assert "test_tracks" not in arrays and arrays["train_tracks"].dtype == np.int64
    tracks, labels = arrays["train_tracks"], arrays["train_labels"]
    assert (np.unique(tracks, return_counts=True)[1] == sample.TRACK).all()
    assert all(len(np.unique(labels[tracks == track])) == 1 for track in np.unique(tracks))
    pixels = arrays["train_images"].reshape(len(labels), -1).astype(float)
    nearer = 0
    for row in range(100):
        distance = np.abs(pixels - pixels[row]).mean(1)
        own = (tracks == tracks[row]) & (np.arange(len(labels)) != row)
        others = (labels == labels[row]) & (tracks != tracks[row])
        nearer += distance[own].min() < distance[others].min()
    assert nearer > 90


def test_every_sign_is_drawn_and_none_twice():
    signs = [draw_sign(label, 32) for label in range(43)]
    assert all(sign.shape == (32, 32, 4) and sign.min() >= 0 and sign.max() <= 1 for sign in signs)
    assert all(0.25 < sign[..., 3].mean() < 0.9 for sign in signs)  # it covers its share of the picture
    for one, first in enumerate(signs):
        for other in range(one):
            assert np.abs(first - signs[other]).mean() > 0.005, (SIGNS[one], SIGNS[other])


def test_mirrored_signs_are_mirrored():
    for left, right in ((19, 20), (34, 33), (37, 36), (39, 38)):
        assert np.abs(draw_sign(left)[:, ::-1] - draw_sign(right)).mean() < 0.01


def test_signs_bear_the_real_names():
    assert len(SIGNS) == 43 and sample.CLASSES["gtsrb"] == SOURCES["gtsrb"].classes
    assert (SIGNS[14][0], SIGNS[13][0], SIGNS[17][0]) == ("stop", "yield", "no entry")


def test_unknown():
    with pytest.raises(CourseError, match="cifar10, gtsrb, stl10"):
        sample.draw("mnist", {"train": 10}, 0)
