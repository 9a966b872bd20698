"""The engines draw augmented images from one distribution."""
import dataclasses

import numpy as np
import pytest
import torch

from course_utils.config import Transform
from course_utils.data import BatchLoader, open_dataset
from course_utils.variants import load_experiment

COUNT = 3000
RECIPES = {name: load_experiment("cifar10_dilated_depthwise", name).augmentation for name in ("s7", "net")}
RECIPES |= {name: (Transform("color_jitter", 1.0, {name: amount}),)
            for name, amount in (("brightness", 5), ("contrast", 5), ("saturation", 1), ("hue", 0.4))}
RECIPES["rotation"] = (Transform("affine", 1.0, {"rotate": 45}),)


@pytest.fixture(scope="module")
def data():
    return open_dataset("cifar10", data="synthetic", train_images=320, test_images=100)


def augmented(data, augmentation, engine):
    """float64 (COUNT, 3, 32, 32): one image, so many times in an epoch, as that engine changes it."""
    images, labels = np.repeat(data.train_images[3:4], COUNT, 0), np.zeros(COUNT, np.int64)
    batches = BatchLoader(images, labels, 500, data.mean, data.std, engine=engine, augmentation=augmentation)
    return torch.cat([x for x, _ in batches.epoch(1)]).double()


def largest_deviation(a, b):
    """Of the pixels' means and mean squares, in standard errors, where a pixel changes often enough to have one."""
    changing = (a.std(0) > 0.2) & (b.std(0) > 0.2)
    found = []
    for power in (1, 2):
        one, other = a[:, changing]**power, b[:, changing]**power
        found.append((one.mean(0) - other.mean(0)).abs() / ((one.var(0) + other.var(0)) / COUNT).sqrt())
    return torch.cat(found).max()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["albumentations", "torchvision"])
@pytest.mark.parametrize("name", RECIPES)
def test_engines_draw_from_one_distribution(data, name, engine):
    """The largest deviation stays below five standard errors; with one wrong probability it does not.

    torchvision rounds a shift where the others truncate it, so it is compared without one.
    """
    augmentation = RECIPES[name]
    if engine == "torchvision":
        augmentation = [dataclasses.replace(step, settings={**step.settings, "shift": 0})
                        if step.name == "shift_scale_rotate" else step for step in augmentation]
    reference = augmented(data, augmentation, engine)
    assert largest_deviation(augmented(data, augmentation, "torch"), reference) < 5
    for number in range(len(augmentation)):
        wrong = [dataclasses.replace(step, p=0.7 * step.p) if k == number else step
                 for k, step in enumerate(augmentation)]
        assert largest_deviation(augmented(data, wrong, "torch"), reference) > 5, augmentation[number].name
