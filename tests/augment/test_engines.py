"""The fast paths against the plain way: the same distribution of augmented images, the same loss within seed noise."""
import dataclasses

import numpy as np
import pytest
import torch
from torch import nn

from benchmarks import plain
from course_utils.training import device as hardware
from course_utils.data.datasets import open_dataset
from course_utils.config import Transform
from course_utils.variants import load_experiment
from course_utils.data.loader import BatchLoader
from course_utils.training.step import train_step

DRAWS, SEEDS = 3000, 5


@pytest.fixture(scope="module")
def data():
    return open_dataset("cifar10", data="synthetic", train_images=320, test_images=100)


def drawn(data, augmentation, engine):
    """float64 (DRAWS, 3, 32, 32): one image, so many times in an epoch, as that engine changes it."""
    images, labels = np.repeat(data.train_images[3:4], DRAWS, 0), np.zeros(DRAWS, np.int64)
    batches = BatchLoader(images, labels, 500, data.mean, data.std, engine=engine, augmentation=augmentation)
    return torch.cat([x for x, _ in batches.epoch(1)]).double()


def largest_deviation(a, b):
    """Of the pixels' means and mean squares, in standard errors, where a pixel changes often enough to have one."""
    lively = (a.std(0) > 0.2) & (b.std(0) > 0.2)
    found = []
    for power in (1, 2):
        one, other = a[:, lively]**power, b[:, lively]**power
        found.append((one.mean(0) - other.mean(0)).abs() / ((one.var(0) + other.var(0)) / DRAWS).sqrt())
    return torch.cat(found).max()


@pytest.mark.parametrize("name", ["s7", "net"])
def test_both_engines_draw_from_one_distribution(data, name):
    """The largest of the deviations stays below five standard errors; with one wrong probability it does not."""
    augmentation = load_experiment("cifar10_dilated_depthwise", name).augmentation
    reference = drawn(data, augmentation, "albumentations")
    assert largest_deviation(drawn(data, augmentation, "torch"), reference) < 5
    for number in range(len(augmentation)):
        wrong = [dataclasses.replace(step, p=0.7 * step.p) if k == number else step
                 for k, step in enumerate(augmentation)]
        assert largest_deviation(drawn(data, wrong, "torch"), reference) > 5, augmentation[number].name


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
                         nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.Conv2d(16, 32, 1), nn.ReLU(),
                         nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(512, 10))


def losses(data, exp, way):
    """The training loss of the last epoch, for each seed."""
    found = []
    for seed in range(SEEDS):
        model, settings = network(seed), {"augmentation": exp.augmentation, "shuffle": True, "seed": seed}
        engine = "albumentations" if way == "plain" else "torch"
        batches = BatchLoader(data.train_images, data.train_labels, 32, data.mean, data.std, engine=engine, **settings)
        if way == "plain":
            optimizer = plain.optimizer_for(model, "sgd", 0.05, 0.9, 0.0)

            def step(x, y, model=model, optimizer=optimizer):
                return plain.step(model, optimizer, x.contiguous(), y, exp.l1)
        else:
            step = train_step(exp, model, 0.05, hardware.select_device("fp32"))
        found.append([np.mean([float(step(x, y)) for x, y in batches.epoch(epoch)]) for epoch in (1, 2, 3)][-1])
    return np.array(found)


def test_the_loss_is_that_of_the_plain_way_within_seed_noise(data):
    """Of the differences, seed by seed, Student's t stays below 3; without most of the augmentation it does not."""
    exp = load_experiment("cifar10_dilated_depthwise", "s7", "smoke", optimizer="sgd", momentum=0.9, l1=0.0005)

    def t(a, b):
        return abs((a - b).mean()) / ((a - b).std(ddof=1) / SEEDS**0.5)

    theirs = losses(data, exp, "plain")
    assert t(theirs, losses(data, exp, "ours")) < 3
    assert t(theirs, losses(data, exp.replace(augmentation=(Transform("horizontal_flip"),)), "ours")) > 3
