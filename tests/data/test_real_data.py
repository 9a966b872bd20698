"""On the real data: skipped, with a reason, where it is not found."""
import numpy as np
import torch
from helpers import real_root

from course_utils.data import datasets
from course_utils.training import trainer as train
from course_utils.evaluation.metrics import Prediction, predict
from course_utils.config import Experiment
from course_utils.variants import load_experiment
from course_utils.training.device import select_device
from course_utils.data.loader import make_loaders
from course_utils.models import build_model


def trained(exp: Experiment, data: datasets.Dataset) -> tuple[train.Training, Prediction]:
    machine = select_device("fp32")
    loaders = make_loaders(exp, data, machine.placement)
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes))
    training = train.fit(exp, model, loaders.train, loaders.val, exp.lr, machine, log=lambda _: None)
    return training, predict(model, loaders.test)


def test_some_seconds_on_real_cifar10_beat_chance():
    """1,000 images once, tested on 500: guessing reaches 10 % with a deviation of 1.3 %, so 20 % is 7 of them away."""
    exp = load_experiment("cifar10_custom_resnet", epochs=1, batch_size=20, lr=0.001).replace(peak_epoch=0.3)
    data = datasets.open_dataset("cifar10", real_root("cifar10"), train_images=1000, test_images=500)
    training, prediction = trained(exp, data)
    assert prediction.accuracy > 0.20
    assert prediction.accuracy == training.history[-1]["test_accuracy"]


def test_some_seconds_on_real_gtsrb_beat_chance():
    """3,440 pictures and their copies once; tested on 860, 20 of each class: guessing reaches 2.3 % +- 0.5 %."""
    exp = load_experiment("gtsrb_stn", "lenet_stn", epochs=1, batch_size=32)
    data = datasets.open_dataset("gtsrb", real_root("gtsrb"), train_images=3440, test_images=860)
    training, prediction = trained(exp, data)
    assert prediction.accuracy > 0.10
    assert training.best["val_accuracy"] == training.history[0]["val_accuracy"]


def test_the_published_constants_are_those_of_cifar10_s_pixels():
    data = datasets.open_dataset("cifar10", real_root("cifar10"))
    mean, std = datasets.channel_statistics(data.train_images)
    np.testing.assert_allclose(mean, data.mean, atol=1e-8)
    np.testing.assert_allclose(std, data.std, atol=1e-8)
    assert not data.is_synthetic and len(data.test_labels) == 10_000


def test_gtsrb_is_the_final_training_set_with_its_tracks():
    """39,209 pictures in 1,307 tracks of 30, one of 29; torchvision's class would give 26,640."""
    data = datasets.open_dataset("gtsrb", real_root("gtsrb"))
    assert data.train_images.shape == (39_209, 32, 32, 3) and data.test_images.shape == (12_630, 32, 32, 3)
    _, sizes = np.unique(data.train_tracks, return_counts=True)
    assert np.bincount(sizes)[[29, 30]].tolist() == [1, 1306]
    items = datasets.expand(39_209, 12, 0)
    used, held = datasets.split_items(items, data, "track", 0.2)
    assert len(items) == 274_457
    assert not set(data.train_tracks[used.image]) & set(data.train_tracks[held.image])
    _, leaky = datasets.split_items(items, data, "random", 0.2)
    assert abs(len(leaky) - 274_457 / 5) < 43


def test_stl10_holds_out_100_of_each_class_always_the_same():
    data = datasets.open_dataset("stl10", real_root("stl10"))
    assert data.train_images.shape == (5_000, 96, 96, 3) and data.test_images.shape == (8_000, 96, 96, 3)
    assert np.bincount(data.train_labels).tolist() == [500] * 10
    assert np.bincount(data.test_labels).tolist() == [800] * 10
    placement = select_device("fp32").placement
    first, again = (make_loaders(load_experiment("stl10_versions", "2.3", seed=seed), data, placement) for seed in (0, 1))
    assert np.bincount(data.train_labels[first.val_plain.items.image]).tolist() == [100] * 10
    assert np.array_equal(first.val_plain.items.image, again.val_plain.items.image)  # whatever the run's own seed
    assert len(np.intersect1d(first.val_plain.items.image, first.train.items.image)) == 0 == len(first.train.items) - 4_000


def test_some_seconds_on_real_stl10_beat_chance():
    """450 pictures, small, both stages; tested on 400: guessing reaches 10 % with a deviation of 1.5 %."""
    exp = load_experiment("stl10_versions", "2.5", "smoke", epochs=3).replace(data="real", test_images=400)
    data = datasets.open_dataset("stl10", real_root("stl10"), train_images=exp.train_images, test_images=400)
    machine = select_device("fp32")
    torch.manual_seed(exp.seed)
    model = build_model(exp.model, len(data.classes))

    def loaders_of(stage):
        return make_loaders(stage, data, machine.placement)

    train.fit_stages(exp, model, loaders_of, exp.lr, machine, log=lambda _: None)
    accuracy = predict(model, loaders_of(exp.stage(1)).test).accuracy
    assert accuracy > 0.18
