"""Networks for GTSRB: (N, 3, 32, 32) normalised images -> (N, classes) log-probabilities.

Layer by layer as published; ``SpatialTransformer`` goes in front of any of them.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.blocks import conv_block


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al. 1998) for colour images, its linear layers written as convolutions: 65,219 parameters."""

    def __init__(self, classes: int = 43, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),  # 6 x 14 x 14
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))  # 16 x 5 x 5
        self.classifier = nn.Sequential(
            nn.Conv2d(16, 120, 5), nn.BatchNorm2d(120), nn.ReLU(), nn.Dropout(dropout),  # 120 x 1 x 1
            nn.Conv2d(120, 84, 1), nn.BatchNorm2d(84), nn.ReLU(), nn.Dropout(dropout),
            nn.Conv2d(84, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.classifier(self.features(x)).flatten(1), dim=1)


class VGG16(nn.Module):
    """VGG-16 with batch norm (Simonyan & Zisserman 2014, arXiv:1409.1556): 134,445,163 parameters.

    The classifier expects 7 x 7 features as from 224 x 224 pixels. From 32 x 32 only 1 x 1 is left, which the adaptive
    pooling repeats 49 times: the first linear layer's 102,764,544 weights do the work of 2,097,152.
    """

    STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions; each stage halves the side

    def __init__(self, classes: int = 43, dropout: float = 0.5) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for channels, convolutions in self.STAGES:
            for _ in range(convolutions):
                layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU()]
                inputs = channels
            layers.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*layers)  # 512 x 1 x 1
        self.pool = nn.AdaptiveAvgPool2d(7)
        self.classifier = nn.Sequential(
            nn.Linear(512 * 7 * 7, 4096), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(4096, 4096), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(4096, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.features(x))
        return F.log_softmax(self.classifier(x.flatten(1)), dim=1)


class ResNet34(nn.Module):
    """The net published as "ResNet 34": 10,441,835 parameters, 12 convolutions, and nothing residual.

    Each stage ends in a convolution, dropout, and max pooling before its batch norm; the last one keeps its 4 x 4.
    """

    def __init__(self, classes: int = 43, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *self._stage(3, 32, dropout), *self._stage(32, 64, dropout), *self._stage(64, 128, dropout),
            *self._stage(128, 256, dropout, pool=False))  # 256 x 4 x 4
        self.classifier = nn.Sequential(
            nn.Linear(256 * 4 * 4, 2048), nn.BatchNorm1d(2048), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(2048, classes))

    @staticmethod
    def _stage(inputs: int, channels: int, dropout: float, pool: bool = True) -> list[nn.Module]:
        return [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
                nn.Conv2d(channels, channels, 3, padding=1), nn.Dropout(dropout),
                *([nn.MaxPool2d(2)] if pool else []), nn.BatchNorm2d(channels), nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.classifier(self.features(x).flatten(1)), dim=1)


class SpatialTransformer(nn.Module):
    """A spatial transformer (Jaderberg et al. 2015, arXiv:1506.02025) in front of ``classifier``: 8,544 parameters.

    A small localisation network looks at the image and says by which affine map to resample it; the classifier sees
    the resampled image. Nobody tells the localisation network what is right: it learns from the classifier's loss.
    """

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.localisation = nn.Sequential(
            nn.Conv2d(3, 8, 7), nn.MaxPool2d(2), nn.ReLU(),  # 8 x 13 x 13
            nn.Conv2d(8, 10, 5), nn.MaxPool2d(2), nn.ReLU())  # 10 x 4 x 4
        self.affine = nn.Sequential(nn.Linear(10 * 4 * 4, 32), nn.ReLU(), _identity_at_start(32))
        self.classifier = classifier

    def theta(self, x: Tensor) -> Tensor:
        """(N, 2, 3): from a place in the output to the place in the input to look at, both from -1 to 1."""
        return self.affine(self.localisation(x).flatten(1)).view(-1, 2, 3)

    def transform(self, x: Tensor) -> Tensor:
        """The resampled images, (N, 3, H, W); what lies outside is 0, the data set's mean colour."""
        return _resampled(x, self.theta(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.transform(x))


def _identity_at_start(inputs: int) -> nn.Linear:
    """The layer that says the six numbers of the map: whatever comes in, the identity at first."""
    layer = nn.Linear(inputs, 6)
    nn.init.zeros_(layer.weight)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
    return layer


def _resampled(x: Tensor, theta: Tensor) -> Tensor:
    """``x`` (N, C, H, W) seen through ``theta`` (N, 2, 3); what lies outside is 0."""
    return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=True), align_corners=True)


def lenet_stn(classes: int = 43, dropout: float = 0.2) -> SpatialTransformer:
    """LeNet behind a spatial transformer: 73,763 parameters."""
    return SpatialTransformer(LeNet(classes, dropout))


def vgg16_stn(classes: int = 43, dropout: float = 0.5) -> SpatialTransformer:
    """VGG16 behind a spatial transformer: 134,453,707 parameters."""
    return SpatialTransformer(VGG16(classes, dropout))


def resnet34_stn(classes: int = 43, dropout: float = 0.2) -> SpatialTransformer:
    """ResNet34 behind a spatial transformer: 10,450,379 parameters."""
    return SpatialTransformer(ResNet34(classes, dropout))


class SignNet(nn.Module):
    """Our own: three spatial transformers in a residual net, 2,299,069 parameters, 88 M mult-adds.

    That one network with several transformers is enough for GTSRB is Jaderberg et al.'s (2015) and Arcos-Garcia et
    al.'s (2018, doi:10.1016/j.neunet.2018.01.005: 99.71 %, 14.6 M parameters). One straightens the picture, the other
    two the features at 16 x 16 and 8 x 8, each from what its own localisation network sees there.
    """

    def __init__(self, classes: int = 43, dropout: float = 0.3) -> None:
        super().__init__()
        self.straighten = _Straighten(3, 32)
        self.stem = nn.Sequential(*conv_block(3, 32), *conv_block(32, 32, pool=True))  # 32 x 16 x 16
        self.straighten2 = _Straighten(32, 16)
        self.widen2 = nn.Sequential(*conv_block(32, 64))
        self.residual2 = nn.Sequential(*conv_block(64, 64), *conv_block(64, 64))
        self.shrink3 = nn.Sequential(nn.MaxPool2d(2), *conv_block(64, 128))  # 128 x 8 x 8
        self.straighten3 = _Straighten(128, 8)
        self.residual3 = nn.Sequential(*conv_block(128, 128), *conv_block(128, 128))
        self.shrink4 = nn.Sequential(nn.MaxPool2d(2), *conv_block(128, 256))  # 256 x 4 x 4
        self.residual4 = nn.Sequential(*conv_block(256, 256), *conv_block(256, 256))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(256 * 4 * 4, classes))

    def theta(self, x: Tensor) -> Tensor:
        """(N, 2, 3): by which map the first transformer resamples the images."""
        return self.straighten.theta(x)

    def transform(self, x: Tensor) -> Tensor:
        """The images as the first transformer resamples them, (N, 3, 32, 32)."""
        return self.straighten(x)

    def forward(self, x: Tensor) -> Tensor:
        x = self.straighten2(self.stem(self.straighten(x)))
        x = self.widen2(x)
        x = self.straighten3(self.shrink3(x + self.residual2(x)))
        x = self.shrink4(x + self.residual3(x))
        x = x + self.residual4(x)
        return F.log_softmax(self.classifier(x.flatten(1)), dim=1)


class _Straighten(nn.Module):
    """A spatial transformer on (N, channels, side, side): localisation at 8 x 8 at most, identity at the start."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.localisation = nn.Sequential(
            nn.AvgPool2d(max(1, side // 16)), *conv_block(channels, 32, pool=True), *conv_block(32, 32),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU())
        self.affine = _identity_at_start(64)

    def theta(self, x: Tensor) -> Tensor:
        return self.affine(self.localisation(x)).view(-1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return _resampled(x, self.theta(x))
