import numpy as np
import pytest

from course_utils import acquire, datasets
from course_utils.experiment import CourseError


def test_channel_statistics_agree_with_numpy():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    mean, std = datasets.channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_stratified_takes_equally_many_of_each():
    labels = np.random.default_rng(0).integers(0, 10, 1000)
    chosen = datasets.stratified(labels, 105, 10)
    assert sorted(np.bincount(labels[chosen])) == [10] * 5 + [11] * 5
    assert (np.diff(chosen) > 0).all()
    with pytest.raises(CourseError, match="there are only"):
        datasets.stratified(labels, 2000, 10)


def test_holdout_is_a_partition():
    labels = np.repeat(np.arange(10), 50)
    rest, held = datasets.holdout_split(labels, 0.2, 10)
    assert np.array_equal(np.sort(np.concatenate([rest, held])), np.arange(500))
    assert (np.bincount(labels[held]) == 10).all()
    assert np.array_equal(held, datasets.holdout_split(labels, 0.2, 10)[1])
    assert not np.array_equal(held, datasets.holdout_split(labels, 0.2, 10, seed=1)[1])


def test_real_data_never_turns_into_the_sample(tmp_path):
    with pytest.raises(CourseError, match=r"course_utils data cifar10.*--root"):
        datasets.open_dataset("cifar10", tmp_path)


def test_the_sample_says_so():
    data = datasets.open_dataset("cifar10", data="sample", train_images=20, test_images=10)
    assert data.is_sample and "sample" in data.title
    assert data.sha256["train_images"] == acquire.sha256(data.train_images)


def test_unknown():
    with pytest.raises(CourseError, match="cifar10"):
        datasets.open_dataset("cifar100")


def test_the_published_constants_are_those_of_the_real_pixels(real_root):
    data = datasets.open_dataset("cifar10", real_root)
    mean, std = datasets.channel_statistics(data.train_images)
    np.testing.assert_allclose(mean, data.mean, atol=1e-8)
    np.testing.assert_allclose(std, data.std, atol=1e-8)
    assert not data.is_sample and len(data.test_labels) == 10_000
