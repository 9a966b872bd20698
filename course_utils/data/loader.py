"""Batches: in an order, augmented and sharded so that only (seed, epoch, image) decides what a network sees."""
from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from course_utils.augment.pipeline import BatchedAugment, Colour, albumentations_pipeline, image_keys, seed_pipeline
from course_utils.data.datasets import Dataset, Items, expand, split_items
from course_utils.errors import CourseError
from course_utils.config import Experiment, Transform

WORKER_TIMEOUT = 120  # seconds after which a silent DataLoader worker is an error
TOGETHER = 1 << 22  # pixels augmented at once, in as many batches as that makes: the overhead of small steps is shared
RESIDENT_SHARE = 0.25  # of the device's free memory that the images may take to live there


class Batches:
    """One split as batches: float32 (B, 3, H, W), channels last, normalised, and int64 (B,), on ``device``.

    An epoch goes ``passes`` times through the items, each time in another order and with other changes.

    Arguments: ``images`` uint8 (N, H, W, 3) and ``labels`` int64 (N,); ``items``, what an epoch consists of (default:
    each image once, plain) and ``expansion``, the transforms that its kinds stand for; ``batch_size`` over all
    processes together, of which this is number ``rank`` of ``world``; ``mean`` and ``std`` RGB, 0 to 1. ``workers``
    (processes) serve the "albumentations" engine alone; the "torch" engine augments whole batches on the device. The
    last batch is smaller when ``batch_size`` does not divide the number of items; nothing is dropped. A rest of less
    than two items a process, of which batch norm could make nothing, is added to the batch before. ``share``: other
    batches of the same images on the same device, so that a GPU holds them once.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch_size: int, mean: Colour, std: Colour, *,
                 items: Items | None = None, augmentation: Sequence[Transform] = (),
                 expansion: Sequence[Transform] = (), engine: str = "torch", shuffle: bool = False, seed: int = 0,
                 device: torch.device | str = "cpu", rank: int = 0, world: int = 1, workers: int = 0, passes: int = 1,
                 share: Batches | None = None) -> None:
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.mean, self.std, self.engine = mean, std, engine
        self.augmentation, self.expansion = augmentation, expansion
        self.shuffle, self.seed, self.rank, self.world, self.workers = shuffle, seed, rank, world, workers
        self.device, self.passes = torch.device(device), passes
        self.items = expand(len(labels), 0, seed) if items is None else items
        if len(self.items) < world or batch_size < world:
            raise CourseError(f"{len(self.items)} images in batches of {batch_size} are too few for {world} processes.")
        self.augment = BatchedAugment(augmentation, mean, std, expansion)
        self.resident = self._to_device() if share is None else share.resident

    def __len__(self) -> int:
        """Optimiser steps in an epoch."""
        return self.passes * self._steps()

    @property
    def side(self) -> int:
        """Pixels, of the images as the network gets them."""
        return self.augment.side(self.images.shape[1])

    def _steps(self) -> int:
        """Optimiser steps in a pass."""
        whole, rest = divmod(len(self.items), self.batch_size)
        return max(1, whole + (rest >= 2 * self.world))

    def order(self, number: int) -> Tensor:
        """int64 (M,): the order of the items in pass ``number`` of the run, the same in every process."""
        if not self.shuffle:
            return torch.arange(len(self.items))
        key = image_keys(self.seed, number, torch.tensor([len(self.items)]))
        return torch.randperm(len(self.items), generator=torch.Generator().manual_seed(int(key)))

    def keys(self, number: int, order: Tensor) -> Tensor:
        """int64: for each item of ``order`` the key that decides how it is changed in pass ``number`` of the run."""
        numbers = self.items.image + len(self.labels) * self.items.kind  # an item's own, whatever the split
        return image_keys(self.seed, number, torch.from_numpy(numbers)[order])

    def epoch(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch; epochs are counted from 1."""
        for number in range((epoch - 1) * self.passes + 1, epoch * self.passes + 1):
            yield from self._pass(number)

    def _pass(self, number: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.order(number)
        if self.engine == "albumentations":
            yield from self._one_by_one(self._share(order), number)
            return
        shares = self._share(order)
        together = max(1, TOGETHER // (self.batch_size * self.images[0, ..., 0].size))
        pieces = [shares[k:k + together] for k in range(0, len(shares), together)]
        numbers = [torch.cat(piece) for piece in pieces]
        kinds, by_kind = zip(*(torch.from_numpy(self.items.kind)[n].sort(stable=True) for n in numbers))
        back = torch.cat([order.argsort() for order in by_kind]).to(self.device)
        numbers = torch.cat([n[order] for n, order in zip(numbers, by_kind)])  # each transform's part in one piece
        images, keys = torch.from_numpy(self.items.image)[numbers], self.keys(number, numbers).to(self.device)
        images = images.to(self.device) if self.resident is not None else images  # once: each copy would be a wait
        sizes = [len(kind) for kind in kinds]
        for piece, kind, *parts in zip(pieces, kinds, *(a.split(sizes) for a in (images, keys, back))):
            x, y = self._augmented(kind, *parts)
            yield from zip(x.split([len(b) for b in piece]), y.split([len(b) for b in piece]))

    def _augmented(self, kinds: Tensor, images: Tensor, keys: Tensor, back: Tensor) -> tuple[Tensor, Tensor]:
        """Changed images and labels, each (B, ...), put into the order ``back``."""
        x, y = self._raw(images)
        x = self.augment(x, keys, kinds)
        if self.expansion:
            x, y = x[back], y[back]
        return x.contiguous(memory_format=torch.channels_last), y

    def _share(self, order: Tensor) -> list[Tensor]:
        """This process's part of every batch of a pass in ``order`` (M,)."""
        ends = [self.batch_size * k for k in range(1, self._steps())]
        return [batch[self.rank::self.world] for batch in order.tensor_split(ends)]

    def _raw(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        if self.resident is not None:
            images, labels = self.resident
            return images[indices], labels[indices]
        chosen = indices.numpy()
        x, y = torch.from_numpy(self.images[chosen]), torch.from_numpy(self.labels[chosen])
        return x.to(self.device), y.to(self.device)

    def _to_device(self) -> tuple[Tensor, Tensor] | None:
        """Images and labels as tensors there, when there is a GPU with room for them."""
        if self.device.type != "cuda":
            return None
        free, _ = torch.cuda.mem_get_info(self.device)
        if self.images.nbytes > RESIDENT_SHARE * free:
            return None
        return tuple(torch.from_numpy(np.array(a)).to(self.device) for a in (self.images, self.labels))

    def _one_by_one(self, batches: list[Tensor], number: int) -> Iterator[tuple[Tensor, Tensor]]:
        items = _OneByOne(self, number)
        loader = torch.utils.data.DataLoader(items, batch_sampler=[b.tolist() for b in batches],
                                             num_workers=self.workers)
        for x, y in _in_time(iter(loader)) if self.workers else loader:
            yield x.to(self.device).permute(0, 3, 1, 2), y.to(self.device)  # from (B, H, W, 3): channels last already


def _in_time(batches: Any) -> Iterator[tuple[Tensor, Tensor]]:
    """What a ``DataLoader``'s iterator gives; its workers are killed when the next batch has not come within
    ``WORKER_TIMEOUT``, and none lives on.

    Torch has a time limit as well, which does not see a worker that stops in the middle of a message, and leaves the
    end of its workers to the garbage collector.
    """
    def kill() -> None:
        for worker in batches._workers:
            worker.kill()

    try:
        while True:
            watch = threading.Timer(WORKER_TIMEOUT, kill)
            watch.start()
            try:
                batch = next(batches, None)
            except (EOFError, ConnectionError) as error:  # one was killed in the middle of a message
                raise worker_lost(error) from error
            finally:
                watch.cancel()
            if batch is None:
                return
            yield batch
    finally:
        batches._shutdown_workers()
        kill()


def worker_lost(error: object) -> CourseError:
    """The error for what torch raises, wherever it happens to be, when a worker is gone."""
    return CourseError(f"A worker of the loader died, or was ended because none had given anything for "
                       f"{WORKER_TIMEOUT} s ({error}). Was it for want of memory? Run again: what is done is kept; "
                       "with fewer workers, the result is the same.")


class _OneByOne(torch.utils.data.Dataset):
    """The "albumentations" engine: one image at a time, each with its own seed."""

    def __init__(self, batches: Batches, number: int) -> None:
        self.images, self.labels, self.items = batches.images, batches.labels, batches.items
        self.seeds = (batches.keys(number, torch.arange(len(self.items))) & 0x7FFFFFFF).numpy()
        starts = [(), *((step,) for step in batches.expansion)]  # by kind
        self.pipelines = [albumentations_pipeline((*start, *batches.augmentation), batches.mean, batches.std)
                          for start in starts]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        image, pipeline = self.items.image[number], self.pipelines[self.items.kind[number]]
        seed_pipeline(pipeline, int(self.seeds[number]))
        return pipeline(image=self.images[image])["image"], int(self.labels[image])


@dataclass(frozen=True)
class Loaders:
    """The batches of one run."""

    train: Batches  # shuffled, augmented
    watch: Batches  # scored after every epoch: the held-out items if there are any, else the test images
    test: Batches  # scored at the end
    views: Batches  # the test images, augmented, for averaging
    held: Batches | None  # the plain pictures among the held-out items


def make_loaders(exp: Experiment, data: Dataset, placement: Mapping[str, Any], workers: int = 0) -> Loaders:
    """What ``exp`` trains and is judged on. ``placement``: device, rank and world, of ``hardware.Machine``."""
    plain = {"batch_size": exp.batch_size, "mean": data.mean, "std": data.std, "device": placement["device"]}
    changed = {"seed": exp.seed, "expansion": exp.expansion}
    resized = {"augmentation": (Transform("resize", 1.0, {"size": exp.test_side}),) if exp.test_side else ()}
    images, labels = data.train_images, data.train_labels
    test = Batches(data.test_images, data.test_labels, **plain, **resized)
    views = Batches(data.test_images, data.test_labels, **plain, share=test, augmentation=exp.augmentation,
                    seed=exp.seed)
    items, out = expand(len(labels), len(exp.expansion), exp.seed), None
    if exp.holdout:
        items, out = split_items(items, data, exp.split, exp.holdout)
    train = Batches(images, labels, items=items, **plain | dict(placement), **changed, augmentation=exp.augmentation,
                    engine=exp.engine, shuffle=True, workers=workers, passes=exp.passes)
    if out is None:
        return Loaders(train, test, test, views, None)
    watch = Batches(images, labels, items=out, **plain, **resized, **changed, share=train)
    held = Batches(images, labels, items=out[out.kind == 0], **plain, **resized, share=train)
    return Loaders(train, watch, test, views, held)
