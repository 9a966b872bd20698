"""Opening data sets, and the splits."""
import numpy as np
import pytest
from helpers import change_dataset

from course_utils.data import DATASETS, channel_statistics, expand_dataset, open_dataset, split_items, synthetic
from course_utils.data.prepare import sha256, write_prepared
from course_utils.data.splits import holdout_split, stratified_subset
from course_utils.errors import CourseError


def test_channel_statistics_equal_numpy():
    images = np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3), dtype=np.uint8)
    mean, std = channel_statistics(images)
    np.testing.assert_allclose(mean, (images / 255).mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (images / 255).std((0, 1, 2)), rtol=1e-12)


def test_stratified_subset_takes_equally_many_of_each_class():
    labels = np.random.default_rng(0).integers(0, 10, 1000)
    chosen = stratified_subset(labels, 105, 10)
    assert sorted(np.bincount(labels[chosen])) == [10] * 5 + [11] * 5
    assert (np.diff(chosen) > 0).all()
    with pytest.raises(CourseError, match="there are only"):
        stratified_subset(labels, 2000, 10)


def test_holdout_split_is_stratified_and_reproducible():
    labels = np.repeat(np.arange(3), (10, 100, 1000))
    rest, held = holdout_split(labels, 0.2, 3)
    assert np.array_equal(np.sort(np.concatenate([rest, held])), np.arange(1110))
    assert np.bincount(labels[held]).tolist() == [2, 20, 200]
    assert np.array_equal(held, holdout_split(labels, 0.2, 3)[1])
    assert not np.array_equal(held, holdout_split(labels, 0.2, 3, seed=1)[1])
    assert len(holdout_split(np.array([0, 0, 1]), 0.2, 2)[1]) == 1  # one of two, none of one
    with pytest.raises(CourseError, match="leaves none for validation"):
        holdout_split(np.array([0, 1]), 0.2, 2)


def test_missing_real_data_is_never_replaced_by_synthetic_data(tmp_path):
    with pytest.raises(CourseError, match=r"course_utils data cifar10.*--root"):
        open_dataset("cifar10", tmp_path)
    with pytest.raises(CourseError, match="cifar10"):
        open_dataset("cifar100")


def test_synthetic_data_is_labeled_as_such():
    data = open_dataset("cifar10", data="synthetic", train_images=20, test_images=10)
    assert data.is_synthetic and "synthetic" in data.title
    assert data.sha256["train_images"] == sha256(data.train_images)


def test_the_published_expansion_has_274457_items():
    items = expand_dataset(39_209, 12, seed=0)
    assert len(items) == 274_457 and np.bincount(items.transform_id).tolist() == [39_209, *[19_604] * 12]
    assert np.array_equal(items.image[:39_209], np.arange(39_209))
    halves = [items.image[items.transform_id == number] for number in range(1, 13)]
    assert all(len(np.unique(half)) == 19_604 for half in halves)
    shared = [len(np.intersect1d(halves[0], half)) for half in halves[1:]]  # each its own half: a quarter in common
    assert min(shared) > 9_500 and max(shared) < 10_100
    assert not np.array_equal(items.image, expand_dataset(39_209, 12, seed=1).image)


@pytest.fixture(scope="module")
def signs():
    return open_dataset("gtsrb", data="synthetic", train_images=1290, test_images=43)


def test_a_split_by_track_shares_no_track(signs):
    items = expand_dataset(1290, 3, seed=0)
    train, held = split_items(items, signs.train_labels, signs.train_tracks, "track", 0.2)
    tracks = [set(signs.train_tracks[part.image]) for part in (train, held)]
    assert not tracks[0] & tracks[1] and len(tracks[0] | tracks[1]) == len(np.unique(signs.train_tracks))
    assert (held.transform_id == 0).all() and 0.15 < len(held) / 1290 < 0.25
    assert len(np.unique(signs.train_labels[held.image])) == 43
    assert set(train.image[train.transform_id == 0]) | set(held.image) == set(range(1290))


def test_a_random_split_divides_items_and_shares_images(signs):
    items = expand_dataset(1290, 3, seed=0)
    train, held = split_items(items, signs.train_labels, signs.train_tracks, "random", 0.2)
    pairs = [set(zip(part.image.tolist(), part.transform_id.tolist())) for part in (train, held)]
    assert not pairs[0] & pairs[1] and len(pairs[0] | pairs[1]) == len(items)
    assert abs(len(held) / len(items) - 0.2) < 0.01 and set(held.transform_id) == {0, 1, 2, 3}
    assert np.isin(held.image, train.image).mean() > 0.5


def test_a_split_by_track_needs_tracks():
    with pytest.raises(CourseError, match="no tracks: use split = 'random'"):
        split_items(expand_dataset(100, 0, 0), np.arange(100) % 10, None, "track", 0.2)


def test_other_arrays_than_the_published_are_called_so(tmp_path, monkeypatch):
    """Whatever the ``meta.json`` beside them says."""
    arrays = synthetic.generate("cifar10", {"train": 20, "test": 20}, 0)
    write_prepared(tmp_path / "cifar10", arrays, DATASETS["cifar10"].classes, "the published files")
    assert open_dataset("cifar10", tmp_path).title == "CIFAR-10, OTHER DATA than the published"
    change_dataset(monkeypatch, "cifar10", sha256={key: sha256(array) for key, array in arrays.items()})
    assert open_dataset("cifar10", tmp_path).title == "CIFAR-10"
