import numpy as np
import pytest
import torch
from helpers import MEAN, STD, toy_loader, toy_images

from course_utils.data.datasets import expand
from course_utils.errors import CourseError
from course_utils.config import Transform
from course_utils.data.loader import BatchLoader, make_loaders

STEPS = (Transform("horizontal_flip", 0.5), Transform("shift_scale_rotate", 0.5))


def by_image(batches, epoch):
    """Every image of an epoch, put back into its place."""
    out = torch.cat([x for x, _ in batches.epoch(epoch)])
    return out[batches.order(epoch).argsort()]


def test_batches_hold_every_image_once_and_drop_none():
    batches = toy_loader(10, shuffle=True)
    seen = list(batches.epoch(1))
    assert len(seen) == len(batches) == 7
    assert [len(y) for _, y in seen] == [10] * 6 + [4]
    assert torch.equal(batches.order(1).sort().values, torch.arange(64))
    assert all(x.is_contiguous(memory_format=torch.channels_last) and x.dtype == torch.float32 for x, _ in seen)


def test_labels_stay_with_their_images():
    images, _ = toy_images()
    batches = toy_loader(6, shuffle=True)
    for (x, y), indices in zip(batches.epoch(3), batches.order(3).split(6)):
        assert torch.equal(y, indices % 2)
        expected = (torch.from_numpy(images[indices.numpy()]).permute(0, 3, 1, 2) / 255 - MEAN[0]) / STD[0]
        torch.testing.assert_close(x, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("engine", ["torch", "albumentations"])
def test_what_an_image_looks_like_depends_on_the_epoch_alone(engine):
    same = {"augmentation": STEPS, "engine": engine, "shuffle": True}
    first = by_image(toy_loader(16, **same), 1)
    torch.testing.assert_close(by_image(toy_loader(5, **same), 1), first, atol=1e-5, rtol=0)
    assert not torch.equal(by_image(toy_loader(16, **same), 2), first)
    assert not torch.equal(by_image(toy_loader(16, **same, seed=1), 1), first)


def test_the_number_of_workers_changes_nothing():
    same = {"augmentation": STEPS, "engine": "albumentations", "shuffle": True, "seed": 4}
    alone, helped = (list(toy_loader(8, **same, workers=n).epoch(2)) for n in (0, 2))
    assert all(torch.equal(a, b) and torch.equal(c, d) for (a, c), (b, d) in zip(alone, helped))
    assert not torch.equal(alone[0][0], alone[1][0])


def test_processes_share_an_epoch_without_overlap():
    whole = toy_loader(16, shuffle=True, augmentation=STEPS)
    parts = [toy_loader(16, shuffle=True, augmentation=STEPS, rank=rank, world=2) for rank in (0, 1)]
    for (x, y), (x0, y0), (x1, y1) in zip(whole.epoch(1), *(part.epoch(1) for part in parts)):
        assert torch.equal(y[0::2], y0) and torch.equal(y[1::2], y1)
        torch.testing.assert_close(x[0::2], x0)
        torch.testing.assert_close(x[1::2], x1)


@pytest.mark.parametrize(("batch_size", "world", "last"), [
    (9, 1, 10), (31, 1, 2), (31, 2, 33), (64, 1, 64), (70, 2, 64)])
def test_a_rest_too_small_for_batch_norm_joins_the_batch_before(batch_size, world, last):
    parts = [toy_loader(batch_size, rank=rank, world=world, shuffle=True) for rank in range(world)]
    seen = [[len(y) for _, y in part.epoch(1)] for part in parts]
    assert all(len(sizes) == len(part) for sizes, part in zip(seen, parts))
    assert sum(sizes[-1] for sizes in seen) == last and sum(map(sum, seen)) == 64


def test_fewer_images_than_processes_are_refused():
    with pytest.raises(CourseError, match="too few for 2 processes"):
        toy_loader(1, rank=0, world=2)


@pytest.mark.parametrize("engine", ["torch", "albumentations"])
def test_passes_of_an_epoch_are_epochs_of_their_own(engine):
    """Three passes in one epoch are the first three epochs of one pass each, batch by batch; the next goes on."""
    transform_ids = {"shuffle": True, "augmentation": STEPS, "engine": engine}
    single, triple = toy_loader(10, **transform_ids), toy_loader(10, **transform_ids, passes=3)
    assert len(triple) == 3 * len(single) == len(list(triple.epoch(1)))
    for epoch in (1, 2):
        expected = [batch for k in (1, 2, 3) for batch in single.epoch(3 * (epoch - 1) + k)]
        for (x, y), (x_one, y_one) in zip(triple.epoch(epoch), expected, strict=True):
            assert torch.equal(x, x_one) and torch.equal(y, y_one)


def test_order_differs_by_epoch_and_seed():
    batches = toy_loader(shuffle=True)
    assert torch.equal(batches.order(1), toy_loader(shuffle=True).order(1))
    assert not torch.equal(batches.order(1), batches.order(2))
    assert not torch.equal(batches.order(1), toy_loader(shuffle=True, seed=1).order(1))


def test_held_out_images_are_not_trained_on(tiny):
    from course_utils.data.datasets import open_dataset

    data = open_dataset("cifar10", data="synthetic", train_images=100, test_images=20)
    placement = {"device": "cpu", "rank": 0, "world": 1}
    loaders = make_loaders(tiny, data, placement)
    assert loaders.val is loaders.test and len(loaders.train.items) == 100
    held = make_loaders(tiny.replace(holdout=0.2), data, placement)
    assert len(held.train.items) == 80 and len(held.val.items) == 20
    assert not set(held.train.items.image) & set(held.val.items.image)
    assert np.array_equal(held.test.images, data.test_images)


def test_images_go_to_the_device_once(tiny, monkeypatch):
    """One copy of the training and one of the test images serve all five loaders, and give the same batches."""
    from course_utils.data.datasets import open_dataset

    data = open_dataset("cifar10", data="synthetic", train_images=100, test_images=20)
    exp = tiny.replace(holdout=0.2)
    without = make_loaders(exp, data, {"device": "cpu", "rank": 0, "world": 1})
    uploads = []

    def upload(batches):
        uploads.append(len(batches.images))
        return torch.from_numpy(np.array(batches.images)), torch.from_numpy(batches.labels)

    monkeypatch.setattr(BatchLoader, "_to_device", upload)
    resident = make_loaders(exp, data, {"device": "cpu", "rank": 0, "world": 1})
    assert sorted(uploads) == [20, 100]
    for name in ("train", "watch", "test", "views", "held"):
        for (x, y), (x_again, y_again) in zip(getattr(without, name).epoch(1), getattr(resident, name).epoch(1)):
            assert torch.equal(x, x_again) and torch.equal(y, y_again)


EXPANSION = (Transform("vertical_flip"), Transform("color_jitter", 1.0, {"brightness": 5}))


@pytest.mark.parametrize("engine", ["torch", "albumentations"])
def test_items_of_an_expansion(engine):
    """Plain ones stay plain, flipped ones are flipped, in whatever batch; jittered ones differ between epochs."""
    _, labels = toy_images()
    items = expand(64, 2, seed=0)
    same = {"items": items, "expansion": EXPANSION, "engine": engine}
    plain = by_image(toy_loader(64), 0)
    batches = toy_loader(16, shuffle=True, **same)
    assert len(batches) == 8 and sorted(batches.order(1).tolist()) == list(range(128))
    for epoch in (1, 2):
        got = by_image(batches, epoch)
        tolerance = {"rtol": 0, "atol": 1e-4}
        torch.testing.assert_close(got[:64], plain, **tolerance)
        torch.testing.assert_close(got[64:96], plain[items.image[64:96]].flip(2), **tolerance)
        torch.testing.assert_close(by_image(toy_loader(50, **same), epoch), got, **tolerance)
    assert not torch.equal(by_image(batches, 1)[96:], by_image(batches, 2)[96:])
    y = torch.cat([y for _, y in batches.epoch(1)])[batches.order(1).argsort()]
    assert torch.equal(y, torch.from_numpy(labels[items.image]))


def test_an_item_looks_the_same_on_either_side_of_a_split():
    items = expand(64, 2, seed=0)
    whole = by_image(toy_loader(64, items=items, expansion=EXPANSION), 1)
    part = by_image(toy_loader(64, items=items[np.arange(30, 120)], expansion=EXPANSION), 1)
    torch.testing.assert_close(part, whole[30:120], rtol=0, atol=1e-5)
