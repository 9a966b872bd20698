"""The network of variant ``best``, loaded as a custom network, ``FILE.py:CLASS``, as a student's would be."""
import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.blocks import conv_block
from course_utils.models.spatial_transformer import identity_affine_layer, resample


class SignNet(nn.Module):
    """Three spatial transformers in a residual network, 2,299,069 parameters, 88 M mult-adds.

    Several transformers in one network are Jaderberg et al.'s (2015) and Arcos-Garcia et al.'s (2018,
    doi:10.1016/j.neunet.2018.01.005: 99.71 %, 14.6 M parameters). The first resamples the image, the other two the
    features at 16 x 16 and 8 x 8, each with a localization network of its own.
    """

    cuda_graph = True  # on a GPU its training steps may be recorded and replayed

    def __init__(self, num_classes: int = 43, dropout: float = 0.3) -> None:
        super().__init__()
        self.straighten = FeatureTransformer(3, 32)
        self.stem = nn.Sequential(*conv_block(3, 32), *conv_block(32, 32, pool=True))  # 32 x 16 x 16
        self.straighten2 = FeatureTransformer(32, 16)
        self.widen2 = nn.Sequential(*conv_block(32, 64))
        self.residual2 = nn.Sequential(*conv_block(64, 64), *conv_block(64, 64))
        self.shrink3 = nn.Sequential(nn.MaxPool2d(2), *conv_block(64, 128))  # 128 x 8 x 8
        self.straighten3 = FeatureTransformer(128, 8)
        self.residual3 = nn.Sequential(*conv_block(128, 128), *conv_block(128, 128))
        self.shrink4 = nn.Sequential(nn.MaxPool2d(2), *conv_block(128, 256))  # 256 x 4 x 4
        self.residual4 = nn.Sequential(*conv_block(256, 256), *conv_block(256, 256))
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(256 * 4 * 4, num_classes))

    def theta(self, x: Tensor) -> Tensor:
        """(N, 2, 3): the map by which the first transformer resamples the images."""
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


class FeatureTransformer(nn.Module):
    """A spatial transformer on (N, channels, size, size): localization at 8 x 8 at most, identity at the start."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.localization = nn.Sequential(
            nn.AvgPool2d(max(1, size // 16)), *conv_block(channels, 32, pool=True), *conv_block(32, 32),
            nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(32 * 4 * 4, 64), nn.ReLU())
        self.affine = identity_affine_layer(64)

    def theta(self, x: Tensor) -> Tensor:
        return self.affine(self.localization(x)).view(-1, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return resample(x, self.theta(x))
