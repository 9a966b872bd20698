"""On the real data: skipped, with a reason, where it is not found."""
import numpy as np
import pytest
import torch
from helpers import real_root

from course_utils.data import channel_statistics, expand_dataset, make_loaders, open_dataset, split_items
from course_utils.evaluation.metrics import predict
from course_utils.models import build_model
from course_utils.training import trainer
from course_utils.variants import load_experiment


def test_cifar10_has_the_published_mean_and_std():
    data = open_dataset("cifar10", real_root("cifar10"))
    mean, std = channel_statistics(data.train_images)
    np.testing.assert_allclose(mean, data.mean, atol=1e-8)
    np.testing.assert_allclose(std, data.std, atol=1e-8)
    assert not data.is_synthetic and len(data.test_labels) == 10_000


def test_gtsrb_is_the_final_training_set_with_its_tracks():
    """39,209 images in 1,307 tracks of 30, one of 29; torchvision's class would give 26,640."""
    data = open_dataset("gtsrb", real_root("gtsrb"))
    assert data.train_images.shape == (39_209, 32, 32, 3) and data.test_images.shape == (12_630, 32, 32, 3)
    _, sizes = np.unique(data.train_tracks, return_counts=True)
    assert np.bincount(sizes)[[29, 30]].tolist() == [1, 1306]
    items = expand_dataset(39_209, 12, 0)
    train, held = split_items(items, data.train_labels, data.train_tracks, "track", 0.2)
    assert not set(data.train_tracks[train.image]) & set(data.train_tracks[held.image])
    _, random_held = split_items(items, data.train_labels, data.train_tracks, "random", 0.2)
    assert abs(len(random_held) - 274_457 / 5) < 43


def test_stl10_holds_out_the_same_100_images_of_each_class_for_every_seed():
    data = open_dataset("stl10", real_root("stl10"))
    assert data.train_images.shape == (5_000, 96, 96, 3) and data.test_images.shape == (8_000, 96, 96, 3)
    assert np.bincount(data.train_labels).tolist() == [500] * 10
    assert np.bincount(data.test_labels).tolist() == [800] * 10
    first, other = (make_loaders(load_experiment("stl10_versions", "2.3", seed=seed), data) for seed in (0, 1))
    held, train = first.val_plain.items.image, first.train.items.image
    assert np.bincount(data.train_labels[held]).tolist() == [100] * 10
    assert np.array_equal(held, other.val_plain.items.image)
    assert len(np.intersect1d(held, train)) == 0 and len(train) == 4_000


@pytest.mark.slow
@pytest.mark.parametrize(("assignment", "variant", "settings", "images", "accuracy"), [
    ("cifar10_custom_resnet", None, {"epochs": 1, "batch_size": 20, "lr": 0.001, "peak_epoch": 0.3}, (1000, 500), 0.20),
    ("gtsrb_stn", "lenet_stn", {"epochs": 1, "batch_size": 32}, (3440, 860), 0.10),
    ("stl10_versions", "2.5", {"epochs": 3}, (450, 400), 0.18)])
def test_a_short_training_is_better_than_guessing(assignment, variant, settings, images, accuracy):
    """Guessing reaches 10 % (43 signs: 2.3 %) with a standard error of 1.3, 0.5 and 1.5 %."""
    profile = "smoke" if assignment == "stl10_versions" else "full"
    exp = load_experiment(assignment, variant, profile, **settings)
    exp = exp.replace(data="real", train_images=images[0], test_images=images[1])
    data = open_dataset(exp.dataset, real_root(exp.dataset), train_images=images[0], test_images=images[1])
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes), **exp.model_settings)
    trainer.fit_stages(exp, model, lambda stage: make_loaders(stage, data), exp.lr, log=lambda _: None)
    assert predict(model, make_loaders(exp.all_stages[-1], data).test).accuracy > accuracy
