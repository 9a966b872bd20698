"""Batches: order and augmentation are functions of (seed, epoch, image) alone."""
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor

from course_utils.augment.per_image import ImagePipeline, per_image_pipeline
from course_utils.augment.pipeline import BatchAugment, Color, image_keys
from course_utils.config import Experiment, Transform
from course_utils.data.datasets import Dataset
from course_utils.data.prepare import sha256
from course_utils.data.splits import EpochItems, expand_dataset, split_items
from course_utils.errors import CourseError

WORKER_TIMEOUT = 120  # seconds without a batch after which a DataLoader worker is an error
CHUNK_PIXELS = 1 << 22  # augmented at once, in several batches where these are small: fewer, larger operations
EVALUATION_BATCH = 1024  # images that a GPU evaluates at a time, at least: it would wait for Python otherwise
RESIDENT_SHARE = 0.25  # of a GPU's free memory that the images may occupy there


class BatchLoader:
    """One split as batches: float32 (B, 3, H, W), channels_last, normalized, and int64 (B,), on ``device``.

    ``images``: uint8 (N, H, W, 3), ``labels``: int64 (N,); ``items``: what an epoch goes through ``passes`` times, each
    time with another augmentation (default: each image, plain), ``expansion``: the transforms that their ids stand for;
    ``num_workers``: processes for the per-image engines; ``share``: another loader of the same images on the same
    device, so that a GPU holds them once. The last batch may be smaller, but a single remaining item is added to the
    batch before, since batch norm needs two.
    """

    def __init__(self, images: np.ndarray, labels: np.ndarray, batch_size: int, mean: Color, std: Color, *,
                 items: EpochItems | None = None, augmentation: Sequence[Transform] = (),
                 expansion: Sequence[Transform] = (), engine: str = "torch", shuffle: bool = False, seed: int = 0,
                 device: torch.device | str = "cpu", num_workers: int = 0, passes: int = 1,
                 share: Self | None = None) -> None:
        if type(num_workers) is not int or num_workers < 0:
            raise CourseError(f"NUM_WORKERS = {num_workers!r}: must be a whole number, 0 or greater.")
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.mean, self.std, self.engine = mean, std, engine
        self.augmentation, self.expansion = augmentation, expansion
        self.shuffle, self.seed, self.num_workers = shuffle, seed, num_workers
        self.device, self.passes = torch.device(device), passes
        self.items = expand_dataset(len(labels), 0, seed) if items is None else items
        full, rest = divmod(len(self.items), batch_size)
        self.steps = max(1, full + (rest >= 2))  # optimizer steps per pass
        self.augment = BatchAugment(augmentation, mean, std, expansion)
        self.image_size = self.augment.output_size(images.shape[1])  # pixels, of the network's input
        self.resident = self._to_device() if share is None else share.resident

    def __len__(self) -> int:
        """Optimizer steps per epoch."""
        return self.passes * self.steps

    @functools.cached_property
    def sha256(self) -> str:
        """SHA-256 of the images, by which a resumed run recognizes them."""
        return sha256(self.images)

    def order(self, number: int) -> Tensor:
        """int64 (M,): the order of the items in pass ``number`` of the run."""
        if not self.shuffle:
            return torch.arange(len(self.items))
        key = image_keys(self.seed, number, torch.tensor([len(self.items)]))
        return torch.randperm(len(self.items), generator=torch.Generator().manual_seed(int(key)))

    def keys(self, number: int, order: Tensor) -> Tensor:
        """int64: for each item of ``order`` the key of its random numbers in pass ``number`` of the run."""
        numbers = self.items.image + len(self.labels) * self.items.transform_id  # the item's own, whatever the split
        return image_keys(self.seed, number, torch.from_numpy(numbers)[order])

    def epoch(self, epoch: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of one epoch; epochs are counted from 1."""
        for number in range((epoch - 1) * self.passes + 1, epoch * self.passes + 1):
            order = self.order(number)
            batches = order.tensor_split([self.batch_size * k for k in range(1, self.steps)])
            yield from self._batched(batches, number) if self.engine == "torch" else self._per_image(batches, number)

    def _batched(self, batches: Sequence[Tensor], number: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Augment several batches at once; all indices go to the device in one copy per pass."""
        together = max(1, CHUNK_PIXELS // (self.batch_size * self.images[0, ..., 0].size))
        chunks = [batches[k:k + together] for k in range(0, len(batches), together)]
        numbers = [torch.cat(chunk) for chunk in chunks]
        ids, by_id = zip(*(torch.from_numpy(self.items.transform_id)[n].sort(stable=True) for n in numbers))
        sizes, back = [len(part) for part in ids], torch.cat([order.argsort() for order in by_id])
        numbers = torch.cat([n[order] for n, order in zip(numbers, by_id)])  # the items of one transform are contiguous
        images, keys = torch.from_numpy(self.items.image)[numbers], to_device(self.keys(number, numbers), self.device)
        images, back = images if self.resident is None else to_device(images, self.device), to_device(back, self.device)
        for chunk, transform_ids, rows, key, place in zip(chunks, ids, *(a.split(sizes) for a in (images, keys, back))):
            if self.resident is None:
                x, y = (to_device(torch.from_numpy(a[rows.numpy()]), self.device) for a in (self.images, self.labels))
            else:
                x, y = (whole[rows] for whole in self.resident)
            x = self.augment(x, key, transform_ids)
            if self.expansion:
                x, y = x[place].contiguous(memory_format=torch.channels_last), y[place]
            yield from zip(x.split([len(b) for b in chunk]), y.split([len(b) for b in chunk]))

    def _to_device(self) -> tuple[Tensor, Tensor] | None:
        """Images and labels on the GPU, if there is one with room for them."""
        if self.device.type != "cuda" or self.images.nbytes > RESIDENT_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            return None
        return tuple(torch.from_numpy(np.array(a)).to(self.device) for a in (self.images, self.labels))

    def _per_image(self, batches: Sequence[Tensor], number: int) -> Iterator[tuple[Tensor, Tensor]]:
        loader = torch.utils.data.DataLoader(
            _PerImageDataset(self, number), batch_sampler=[b.tolist() for b in batches], generator=torch.Generator(),
            num_workers=self.num_workers, timeout=WORKER_TIMEOUT if self.num_workers else 0)
        for x, y in loader:
            x, y = (to_device(tensor, self.device) for tensor in (x, y))
            yield x.permute(0, 3, 1, 2), y  # (B, H, W, 3) is channels_last already


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """``tensor`` of the CPU on ``device``; a GPU fetches it from pinned memory by itself, and Python does not wait."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class _PerImageDataset(torch.utils.data.Dataset):
    """The per-image engines: one image at a time, each with its own seed."""

    def __init__(self, batches: BatchLoader, number: int) -> None:
        self.images, self.labels, self.items = batches.images, batches.labels, batches.items
        self.seeds = (batches.keys(number, torch.arange(len(self.items))) & 0x7FFFFFFF).numpy()
        augmentations = [(*first, *batches.augmentation) for first in [(), *((step,) for step in batches.expansion)]]
        self.settings = [(batches.engine, steps, batches.mean, batches.std) for steps in augmentations]

    @functools.cached_property
    def pipelines(self) -> list[ImagePipeline]:
        """By transform id; made in each worker, since not all of them can be sent there."""
        return [per_image_pipeline(*settings) for settings in self.settings]

    def __getitem__(self, number: int) -> tuple[np.ndarray, int]:
        image, pipeline = self.items.image[number], self.pipelines[self.items.transform_id[number]]
        return pipeline(self.images[image], int(self.seeds[number])), int(self.labels[image])


@dataclass(frozen=True)
class Loaders:
    """The loaders of one run."""

    train: BatchLoader  # shuffled, augmented
    val: BatchLoader  # scored after every epoch: the held-out items if there are any, else the test images
    test: BatchLoader  # scored at the end
    tta: BatchLoader  # the test images, augmented, for test-time augmentation
    val_plain: BatchLoader | None  # the plain images among the held-out items


def make_loaders(exp: Experiment, data: Dataset, device: torch.device | str = "cpu", num_workers: int = 0) -> Loaders:
    """The loaders of ``exp`` on ``device``; ``num_workers`` serves the per-image engines."""
    size = max(exp.batch_size, EVALUATION_BATCH) if torch.device(device).type == "cuda" else exp.batch_size
    common = {"batch_size": size, "mean": data.mean, "std": data.std, "device": device}
    random = {"seed": exp.seed, "expansion": exp.expansion}
    resize = {"augmentation": exp.test_transforms}
    images, labels = data.train_images, data.train_labels
    test = BatchLoader(data.test_images, data.test_labels, **common, **resize)
    tta = BatchLoader(data.test_images, data.test_labels, **common, share=test, seed=exp.seed,
                      augmentation=exp.tta_augmentation or exp.augmentation)
    items, held = expand_dataset(len(labels), len(exp.expansion), exp.seed), None
    if exp.holdout:
        items, held = split_items(items, labels, data.train_tracks, exp.split, exp.holdout)
    train = BatchLoader(images, labels, items=items, **(common | {"batch_size": exp.batch_size}), **random,
                        augmentation=exp.augmentation, engine=exp.engine, shuffle=True, num_workers=num_workers,
                        passes=exp.passes_per_epoch)
    if held is None:
        return Loaders(train, test, test, tta, None)
    val = BatchLoader(images, labels, items=held, **common, **resize, **random, share=train)
    plain = BatchLoader(images, labels, items=held[held.transform_id == 0], **common, **resize, share=train)
    return Loaders(train, val, test, tta, plain)
