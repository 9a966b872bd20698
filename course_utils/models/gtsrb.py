"""Networks for GTSRB, layer by layer as published: (N, 3, 32, 32) normalized -> (N, classes) log-probabilities."""
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from course_utils.models.spatial_transformer import SpatialTransformer


class LeNet(nn.Module):
    """LeNet-5 (LeCun et al. 1998) for color images, its linear layers written as convolutions: 65,219 parameters."""

    def __init__(self, num_classes: int = 43, dropout: float = 0.2) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 5), nn.ReLU(), nn.MaxPool2d(2),  # 6 x 14 x 14
            nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2))  # 16 x 5 x 5
        self.classifier = nn.Sequential(
            nn.Conv2d(16, 120, 5), nn.BatchNorm2d(120), nn.ReLU(), nn.Dropout(dropout),  # 120 x 1 x 1
            nn.Conv2d(120, 84, 1), nn.BatchNorm2d(84), nn.ReLU(), nn.Dropout(dropout),
            nn.Conv2d(84, num_classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.classifier(self.features(x)).flatten(1), dim=1)


class VGG16(nn.Module):
    """VGG-16 with batch norm (Simonyan & Zisserman 2014, arXiv:1409.1556), torchvision's: 134,445,163 parameters.

    Made for 224 x 224 pixels: from 32 x 32 only 1 x 1 is left before the classifier, which repeats it 49 times.
    """

    def __init__(self, num_classes: int = 43, dropout: float = 0.5) -> None:
        super().__init__()
        self.vgg = torchvision.models.vgg16_bn(num_classes=num_classes, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.vgg(x), dim=1)


class ResNet34(nn.Module):
    """The net published as "ResNet 34": 10,441,835 parameters, 12 convolutions, no residual connection.

    Each stage ends in a convolution, dropout, and max pooling before its batch norm; the last one keeps its 4 x 4.
    """

    def __init__(self, num_classes: int = 43, dropout: float = 0.2) -> None:
        super().__init__()
        layers, inputs = [], 3
        for channels in (32, 64, 128, 256):
            layers += [nn.Conv2d(inputs, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
                       nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.ReLU(),
                       nn.Conv2d(channels, channels, 3, padding=1), nn.Dropout(dropout),
                       *([nn.MaxPool2d(2)] if channels < 256 else []), nn.BatchNorm2d(channels), nn.ReLU()]
            inputs = channels
        self.features = nn.Sequential(*layers)  # 256 x 4 x 4
        self.classifier = nn.Sequential(
            nn.Linear(256 * 4 * 4, 2048), nn.BatchNorm1d(2048), nn.ReLU(), nn.Dropout(dropout),
            nn.Linear(2048, num_classes))

    def forward(self, x: Tensor) -> Tensor:
        return F.log_softmax(self.classifier(self.features(x).flatten(1)), dim=1)


def lenet_stn(num_classes: int = 43, dropout: float = 0.2) -> SpatialTransformer:
    """LeNet behind a spatial transformer: 73,763 parameters."""
    return SpatialTransformer(LeNet(num_classes, dropout))


def vgg16_stn(num_classes: int = 43, dropout: float = 0.5) -> SpatialTransformer:
    """VGG16 behind a spatial transformer: 134,453,707 parameters."""
    return SpatialTransformer(VGG16(num_classes, dropout))


def resnet34_stn(num_classes: int = 43, dropout: float = 0.2) -> SpatialTransformer:
    """ResNet34 behind a spatial transformer: 10,450,379 parameters."""
    return SpatialTransformer(ResNet34(num_classes, dropout))
