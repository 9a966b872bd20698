import time

import numpy as np
import pytest
import torch

from course_utils.data import DATASETS, synthetic
from course_utils.errors import CourseError


@pytest.mark.parametrize(("name", "size"), [("cifar10", 32), ("gtsrb", 32), ("stl10", 96)])
def test_shape_balance_and_determinism(name, size):
    first, again, other = (synthetic.generate(name, {"train": 200, "test": 86}, seed) for seed in (5, 5, 6))
    assert first["train_images"].shape == (200, size, size, 3)
    assert first["train_images"].dtype == np.uint8 and first["train_labels"].dtype == np.int64
    counts = np.bincount(first["test_labels"])
    assert len(counts) == len(synthetic.CLASSES[name]) and np.ptp(counts) <= 1
    assert not np.array_equal(first["train_images"][:86], first["test_images"])
    assert all(np.array_equal(first[key], again[key]) for key in first)
    assert not np.array_equal(first["train_images"], other["train_images"])


@pytest.mark.parametrize("name", synthetic.CLASSES)
def test_generation_is_fast(name):
    """Under 4 s of processor time for 2,000 images, however busy the machine is otherwise."""
    start = time.process_time()
    synthetic.generate(name, {"train": 2000}, 0)
    assert time.process_time() - start < 4


def test_a_linear_classifier_fails():
    """Logistic regression on the pixels of 2,000 images, tested on 1,000 others."""
    arrays = synthetic.generate("cifar10", {"train": 2000, "test": 1000}, 0)
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


def test_signs_come_in_tracks():
    """Images of a track are alike, and nearer to each other than to the class's other tracks."""
    arrays = synthetic.generate("gtsrb", {"train": 43 * 12, "test": 43}, 1)
    assert "test_tracks" not in arrays and arrays["train_tracks"].dtype == np.int64
    tracks, labels = arrays["train_tracks"], arrays["train_labels"]
    assert (np.unique(tracks, return_counts=True)[1] == synthetic.TRACK_LENGTH).all()
    assert all(len(np.unique(labels[tracks == track])) == 1 for track in np.unique(tracks))
    pixels = arrays["train_images"].reshape(len(labels), -1).astype(float)
    nearer = 0
    for row in range(100):
        distance = np.abs(pixels - pixels[row]).mean(1)
        own = (tracks == tracks[row]) & (np.arange(len(labels)) != row)
        others = (labels == labels[row]) & (tracks != tracks[row])
        nearer += distance[own].min() < distance[others].min()
    assert nearer > 90


def test_every_sign_is_drawn_and_all_differ():
    signs = [synthetic.sign(label) for label in range(43)]
    assert all(sign.shape == (40, 40, 4) and sign.min() >= 0 and sign.max() <= 1 for sign in signs)
    assert all(0.25 < sign[..., 3].mean() < 0.9 for sign in signs)  # it covers its share of the image
    assert min(np.abs(signs[a] - signs[b]).mean() for a in range(43) for b in range(a)) > 0.005
    for left, right in ((19, 20), (34, 33), (37, 36), (39, 38)):  # in the order of the classes: mirrored pairs
        assert np.abs(signs[left][:, ::-1] - signs[right]).mean() < 0.01


def test_class_names():
    assert not set(synthetic.CLASSES["cifar10"]) & set(DATASETS["cifar10"].classes)  # never taken for real ones
    assert [DATASETS["gtsrb"].classes[label] for label in (13, 14, 17)] == ["yield", "stop", "no entry"]
    with pytest.raises(CourseError, match="cifar10, gtsrb, stl10"):
        synthetic.generate("mnist", {"train": 10}, 0)
