"""The plain way, as published notebooks write it: the reference that ours is measured against.

One image at a time: opened or made by Pillow, torchvision's transforms, ``DataLoader`` with two workers; float32 in
the usual memory layout; a progress bar's ``.item()`` at every batch. Needs torchvision (``pip install torchvision``, of
the build that belongs to the installed torch), which nothing else here does.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from course_utils.data.datasets import EpochItems

if TYPE_CHECKING:
    import albumentations as A

WORKERS = 2


def gtsrb_transforms(mean: Sequence[float], std: Sequence[float]) -> list:
    """The plain transform and the twelve of the published GTSRB code, by kind."""
    from torchvision import transforms as T

    changes = [
        [], [T.ColorJitter(brightness=5)], [T.ColorJitter(saturation=5)], [T.ColorJitter(contrast=5)],
        [T.ColorJitter(hue=0.4)], [T.RandomRotation(15)],
        [T.RandomHorizontalFlip(1), T.RandomVerticalFlip(1)], [T.RandomHorizontalFlip(1)], [T.RandomVerticalFlip(1)],
        [T.RandomAffine(15, shear=2)], [T.RandomAffine(15, translate=(0.1, 0.1))],
        [T.Resize((38, 38)), T.CenterCrop(32)], [T.Grayscale(3)]]
    return [T.Compose([T.Resize((32, 32)), *change, T.ToTensor(), T.Normalize(mean, std)]) for change in changes]


def stl10_transform(mean: Sequence[float], std: Sequence[float]) -> Callable:
    """The published transform of STL-10, versions 2.2, both flips included."""
    from torchvision import transforms as T

    return T.Compose([T.RandomRotation(45), T.RandomResizedCrop(96), T.ColorJitter(0.3, 0.3, 0.3, 0.3),
                      T.RandomHorizontalFlip(), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(mean, std)])


def by_albumentations(pipeline: A.Compose, picture: Image.Image) -> Tensor:
    """One picture through NumPy and ``pipeline``: float32 (3, H, W)."""
    return torch.from_numpy(pipeline(image=np.array(picture))["image"]).permute(2, 0, 1)


class Images(Dataset):
    """Arrays in memory, each image made a Pillow one when it is asked for, as torchvision's data sets do."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class Pictures(Dataset):
    """PNG files on the disk; item k is image ``items.image[k]``, changed by transform ``items.kind[k]``."""

    def __init__(self, folder: Path, labels: np.ndarray, items: EpochItems, transforms: list) -> None:
        self.folder, self.labels, self.items, self.transforms = folder, labels, items, transforms

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = int(self.items.image[index])
        picture = Image.open(self.folder / f"{image:05d}.png").convert("RGB")
        return self.transforms[self.items.kind[index]](picture), int(self.labels[image])


def write_pictures(images: np.ndarray, folder: Path) -> None:
    """``images`` uint8 (N, H, W, 3) as PNG files 00000.png, 00001.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(images):
        Image.fromarray(np.asarray(image)).save(folder / f"{number:05d}.png")


def loader(dataset: Dataset, batch_size: int) -> DataLoader:
    """What the notebooks use."""
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=WORKERS)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, batches: DataLoader) -> float:
    """One pass in the plain way; returns the mean loss, nats."""
    model.train()
    total = 0.0
    for x, y in batches:
        total += step(model, optimizer, x, y) * len(y)
    return total / len(batches.dataset)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, l1: float = 0.0) -> float:
    """One optimiser step; returns the loss, nats, with ``l1`` times each tensor's mean absolute value."""
    optimizer.zero_grad()
    loss = F.cross_entropy(model(x), y)
    if l1:
        penalty = 0
        for parameter in model.parameters():
            penalty = penalty + parameter.abs().mean()
        loss = loss + l1 * penalty
    loss.backward()
    optimizer.step()
    return loss.item()


def optimizer_for(model: nn.Module, name: str, lr: float, momentum: float,
                  weight_decay: float) -> torch.optim.Optimizer:
    """Adam or SGD as torch makes it when nothing else is asked for."""
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
