import numpy as np
import pytest
import torch
from helpers import MEAN, STD, toy_images, toy_loader

from course_utils.config import Transform
from course_utils.data import BatchLoader, expand_dataset, make_loaders, open_dataset

STEPS = (Transform("horizontal_flip", 0.5), Transform("shift_scale_rotate", 0.5))
EXPANSION = (Transform("vertical_flip"), Transform("color_jitter", 1.0, {"brightness": 5}))
ENGINES = pytest.mark.parametrize("engine", ["torch", "albumentations", "torchvision"])


@pytest.fixture(scope="module")
def data():
    return open_dataset("cifar10", data="synthetic", train_images=100, test_images=20)


def in_order(batches, epoch):
    """Every item of an epoch, put back into its place."""
    out = torch.cat([x for x, _ in batches.epoch(epoch)])
    return out[batches.order(epoch).argsort()]


def test_batches_hold_every_image_once_with_its_label():
    images, _ = toy_images()
    batches = toy_loader(10, shuffle=True)
    seen, order = list(batches.epoch(3)), batches.order(3)
    assert [len(y) for _, y in seen] == [10] * 6 + [4] and len(seen) == len(batches)
    assert torch.equal(order.sort().values, torch.arange(64))
    for (x, y), indices in zip(seen, order.split(10)):
        assert torch.equal(y, indices % 2)
        assert x.is_contiguous(memory_format=torch.channels_last) and x.dtype == torch.float32
        expected = (torch.from_numpy(images[indices.numpy()]).permute(0, 3, 1, 2) / 255 - MEAN[0]) / STD[0]
        torch.testing.assert_close(x, expected, atol=1e-5, rtol=0)


def test_the_order_depends_on_epoch_and_seed():
    batches = toy_loader(shuffle=True)
    assert torch.equal(batches.order(1), toy_loader(shuffle=True).order(1))
    assert not torch.equal(batches.order(1), batches.order(2))
    assert not torch.equal(batches.order(1), toy_loader(shuffle=True, seed=1).order(1))


@ENGINES
def test_augmentation_depends_on_seed_epoch_and_image_alone(engine):
    settings = {"augmentation": STEPS, "engine": engine, "shuffle": True}
    first = in_order(toy_loader(16, **settings), 1)
    torch.testing.assert_close(in_order(toy_loader(5, **settings), 1), first, atol=1e-5, rtol=0)
    assert not torch.equal(in_order(toy_loader(16, **settings), 2), first)
    assert not torch.equal(in_order(toy_loader(16, **settings, seed=1), 1), first)


@pytest.mark.parametrize("engine", ["albumentations", "torchvision"])
def test_the_number_of_workers_changes_nothing(engine):
    settings = {"augmentation": STEPS, "engine": engine, "shuffle": True, "seed": 4}
    alone, with_workers = (list(toy_loader(8, **settings, num_workers=n).epoch(2)) for n in (0, 2))
    assert all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(alone, with_workers, strict=True))
    assert not torch.equal(alone[0][0], alone[1][0])


@pytest.mark.parametrize(("batch_size", "last"), [(9, 10), (31, 2), (64, 64), (70, 64)])
def test_a_remainder_too_small_for_batch_norm_joins_the_batch_before(batch_size, last):
    batches = toy_loader(batch_size, shuffle=True)
    sizes = [len(y) for _, y in batches.epoch(1)]
    assert len(sizes) == len(batches) and sizes[-1] == last and sum(sizes) == 64


@ENGINES
def test_several_passes_per_epoch_equal_as_many_epochs(engine):
    settings = {"shuffle": True, "augmentation": STEPS, "engine": engine}
    single, triple = toy_loader(10, **settings), toy_loader(10, **settings, passes=3)
    assert len(triple) == 3 * len(single) == len(list(triple.epoch(1)))
    for epoch in (1, 2):
        expected = [batch for k in (1, 2, 3) for batch in single.epoch(3 * (epoch - 1) + k)]
        for (x, y), (x_one, y_one) in zip(triple.epoch(epoch), expected, strict=True):
            assert torch.equal(x, x_one) and torch.equal(y, y_one)


def test_held_out_images_are_not_trained_on(tiny, data):
    loaders = make_loaders(tiny, data)
    assert loaders.val is loaders.test and loaders.val_plain is None and len(loaders.train.items) == 100
    held = make_loaders(tiny.replace(holdout=0.2), data)
    assert len(held.train.items) == 80 and len(held.val.items) == 20
    assert not set(held.train.items.image) & set(held.val.items.image)
    assert np.array_equal(held.test.images, data.test_images)


def test_images_are_copied_to_the_device_once(tiny, data, monkeypatch):
    """One copy of the training and one of the test images serve all five loaders, and give the same batches."""
    exp, copies = tiny.replace(holdout=0.2), []
    expected = make_loaders(exp, data)

    def copy(batches):
        copies.append(len(batches.images))
        return torch.from_numpy(np.array(batches.images)), torch.from_numpy(batches.labels)

    monkeypatch.setattr(BatchLoader, "_to_device", copy)
    resident = make_loaders(exp, data)
    assert sorted(copies) == [20, 100]
    for name in ("train", "val", "test", "tta", "val_plain"):
        batches = zip(getattr(expected, name).epoch(1), getattr(resident, name).epoch(1), strict=True)
        assert all(torch.equal(x, x_resident) and torch.equal(y, y_resident)
                   for (x, y), (x_resident, y_resident) in batches)


@ENGINES
def test_items_of_an_expansion(engine):
    """Plain ones stay plain, flipped ones are flipped, in whatever batch; jittered ones differ between epochs."""
    _, labels = toy_images()
    items = expand_dataset(64, 2, seed=0)
    settings = {"items": items, "expansion": EXPANSION, "engine": engine}
    plain = in_order(toy_loader(64), 0)
    batches = toy_loader(16, shuffle=True, **settings)
    assert len(batches) == 8 and sorted(batches.order(1).tolist()) == list(range(128))
    for epoch in (1, 2):
        got = in_order(batches, epoch)
        tolerance = {"rtol": 0, "atol": 1e-4}
        torch.testing.assert_close(got[:64], plain, **tolerance)
        torch.testing.assert_close(got[64:96], plain[items.image[64:96]].flip(2), **tolerance)
        torch.testing.assert_close(in_order(toy_loader(50, **settings), epoch), got, **tolerance)
    assert not torch.equal(in_order(batches, 1)[96:], in_order(batches, 2)[96:])
    y = torch.cat([y for _, y in batches.epoch(1)])[batches.order(1).argsort()]
    assert torch.equal(y, torch.from_numpy(labels[items.image]))


def test_an_item_is_augmented_the_same_on_either_side_of_a_split():
    items = expand_dataset(64, 2, seed=0)
    all_items = in_order(toy_loader(64, items=items, expansion=EXPANSION), 1)
    part = in_order(toy_loader(64, items=items[np.arange(30, 120)], expansion=EXPANSION), 1)
    torch.testing.assert_close(part, all_items[30:120], rtol=0, atol=1e-5)
