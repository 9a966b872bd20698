import numpy as np
import pytest

from course_utils.data import datasets, prepare as acquire
from course_utils.errors import CourseError


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
    data = datasets.open_dataset("cifar10", data="synthetic", train_images=20, test_images=10)
    assert data.is_synthetic and "synthetic" in data.title
    assert data.sha256["train_images"] == acquire.sha256(data.train_images)


def test_unknown():
    with pytest.raises(CourseError, match="cifar10"):
        datasets.open_dataset("cifar100")


def test_the_published_expansion_has_274457_items():
    items = datasets.expand(39_209, 12, seed=0)
    assert len(items) == 274_457 and np.bincount(items.kind).tolist() == [39_209, *[19_604] * 12]
    assert np.array_equal(items.image[:39_209], np.arange(39_209))
    halves = [items.image[items.kind == kind] for kind in range(1, 13)]
    assert all(len(np.unique(half)) == 19_604 for half in halves)
    shared = [len(np.intersect1d(halves[0], half)) for half in halves[1:]]  # each its own half: a quarter in common
    assert min(shared) > 9_500 and max(shared) < 10_100
    assert not np.array_equal(items.image, datasets.expand(39_209, 12, seed=1).image)


@pytest.fixture(scope="module")
def signs():
    return datasets.open_dataset("gtsrb", data="synthetic", train_images=1290, test_images=43)


def test_a_split_by_track_shares_no_track(signs):
    items = datasets.expand(1290, 3, seed=0)
    used, held = datasets.split_items(items, signs, "track", 0.2)
    tracks = [set(signs.train_tracks[part.image]) for part in (used, held)]
    assert not tracks[0] & tracks[1] and len(tracks[0] | tracks[1]) == len(np.unique(signs.train_tracks))
    assert (held.kind == 0).all() and 0.15 < len(held) / 1290 < 0.25
    assert len(np.unique(signs.train_labels[held.image])) == 43  # every class is judged
    plain = items.image[items.kind == 0]
    assert set(used.image[used.kind == 0]) | set(held.image) == set(plain)


def test_a_random_split_is_of_items_and_leaks(signs):
    items = datasets.expand(1290, 3, seed=0)
    used, held = datasets.split_items(items, signs, "random", 0.2)
    pairs = [set(zip(part.image.tolist(), part.kind.tolist())) for part in (used, held)]
    assert not pairs[0] & pairs[1] and len(pairs[0] | pairs[1]) == len(items)
    assert abs(len(held) / len(items) - 0.2) < 0.01 and set(held.kind) == {0, 1, 2, 3}
    assert np.isin(held.image, used.image).mean() > 0.5


def test_a_split_by_track_needs_tracks():
    data = datasets.open_dataset("cifar10", data="synthetic", train_images=100, test_images=10)
    with pytest.raises(CourseError, match="knows no tracks"):
        datasets.split_items(datasets.expand(100, 0, 0), data, "track", 0.2)


def test_a_share_of_each_class_is_held_out():
    labels = np.repeat(np.arange(3), (10, 100, 1000))
    rest, held = datasets.holdout_split(labels, 0.2, 3)
    assert np.bincount(labels[held]).tolist() == [2, 20, 200] and len(np.intersect1d(rest, held)) == 0
    assert len(rest) + len(held) == 1110
    assert len(datasets.holdout_split(np.array([0, 0, 1]), 0.2, 2)[1]) == 1  # one of two, none of one
    with pytest.raises(CourseError, match="nothing to validate on"):
        datasets.holdout_split(np.array([0, 1]), 0.2, 2)
