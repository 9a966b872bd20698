"""The baseline: training as published notebooks write it.

One image at a time: a Pillow image, torchvision's or Albumentations' transforms, ``DataLoader`` with two workers;
float32 in the default memory format; ``.item()`` at every step.
"""
from collections.abc import Callable, Sequence

import albumentations as A
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T

WORKERS = 2


def cifar10_transform(mean: Sequence[float], std: Sequence[float]) -> Callable[[Image.Image], Tensor]:
    """S7's published augmentation, by Albumentations."""
    pipeline = A.Compose([
        A.HorizontalFlip(p=0.5), A.ToGray(p=0.5),
        A.Affine(translate_percent=(-0.0625, 0.0625), scale=(0.9, 1.1), rotate=(-45, 45), p=0.5),
        A.CoarseDropout(num_holes_range=(1, 1), hole_height_range=(16, 16), hole_width_range=(16, 16),
                        fill=[round(255 * value) for value in mean], p=0.5),
        A.Normalize(mean, std)])
    return lambda image: torch.from_numpy(pipeline(image=np.array(image))["image"]).permute(2, 0, 1)


def stl10_transform(mean: Sequence[float], std: Sequence[float]) -> Callable[[Image.Image], Tensor]:
    """The published transform of STL-10, versions 2.2, both flips included."""
    return T.Compose([T.RandomRotation(45), T.RandomResizedCrop(96), T.ColorJitter(0.3, 0.3, 0.3, 0.3),
                      T.RandomHorizontalFlip(), T.RandomHorizontalFlip(), T.ToTensor(), T.Normalize(mean, std)])


class Images(Dataset):
    """Arrays in memory; each image becomes a Pillow image when it is requested, as in torchvision's data sets."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable) -> None:
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def loader(dataset: Dataset, batch_size: int) -> DataLoader:
    """As notebooks write it."""
    return DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=WORKERS)


def step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, l1: float = 0.0) -> float:
    """One optimizer step; returns the loss, nats, with ``l1`` times each tensor's mean absolute value."""
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
    """Adam or SGD with torch's defaults."""
    if name == "adam":
        return torch.optim.Adam(model.parameters(), lr=lr, weight_decay=weight_decay)
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)
