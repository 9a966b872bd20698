"""Networks for CIFAR-10: (N, 3, 32, 32) normalized images -> (N, 10) logits."""
import functools

import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.blocks import BasicBlock, conv_block, dilated_transition, relu_norm, separable


class CustomResNet(nn.Module):
    """The assignment's ResNet, 6,573,130 parameters, 379.27 M mult-adds, similar to David Page's for DAWNBench.

    Three widening layers, residual blocks after the first and the third. The dropout rate is not published.
    """

    def __init__(self, num_classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        self.prep = nn.Sequential(*conv_block(3, 64, dropout=dropout))
        self.layer1_x = nn.Sequential(*conv_block(64, 128, pool=True, dropout=dropout))
        self.layer1_r = nn.Sequential(*conv_block(128, 128, dropout=dropout), *conv_block(128, 128, dropout=dropout))
        self.layer2 = nn.Sequential(*conv_block(128, 256, pool=True, dropout=dropout))
        self.layer3_x = nn.Sequential(*conv_block(256, 512, pool=True, dropout=dropout))
        self.layer3_r = nn.Sequential(*conv_block(512, 512, dropout=dropout), *conv_block(512, 512, dropout=dropout))
        self.pool = nn.MaxPool2d(4)
        self.fc = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.prep(x)  # (N, 64, 32, 32)
        x = self.layer1_x(x)  # (N, 128, 16, 16)
        x = x + self.layer1_r(x)
        x = self.layer2(x)  # (N, 256, 8, 8)
        x = self.layer3_x(x)  # (N, 512, 4, 4)
        x = x + self.layer3_r(x)
        x = self.pool(x).flatten(1)  # (N, 512)
        return self.fc(x)


class S7(nn.Module):
    """Published as S7_CNNModel: depthwise separable convolutions, 99,744 parameters, receptive field 61."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.block1 = nn.Sequential(*relu_norm(3, 64, padding=1), *separable(64, 64, groups=32),
                                    *separable(64, 64, groups=32), *separable(64, 32, groups=32))  # 32 x 32 x 32
        self.transition1 = nn.Sequential(*dilated_transition(32))  # 32 x 26 x 26
        self.block2 = nn.Sequential(*separable(32, 64), *separable(64, 64), *separable(64, 32))
        self.transition2 = nn.Sequential(*dilated_transition(32))  # 32 x 20 x 20
        self.block3 = nn.Sequential(*separable(32, 64), *separable(64, 64, groups=32), *separable(64, 32, groups=32))
        self.transition3 = nn.Conv2d(32, 32, 3, stride=2, padding=1, bias=False)  # 32 x 10 x 10
        self.block4 = nn.Sequential(*relu_norm(32, 32), *relu_norm(32, 16),
                                    *relu_norm(16, 16, padding=2, dilation=2))  # 16 x 6 x 6
        self.pool = nn.AvgPool2d(6)
        self.classifier = nn.Conv2d(16, num_classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition1(self.block1(x))
        x = self.transition2(self.block2(x))
        x = self.transition3(self.block3(x))
        x = self.classifier(self.pool(self.block4(x)))
        return F.log_softmax(x.flatten(1), dim=1)


class S7Mixed(nn.Module):
    """Published as S7_CNNModel_mixed: 1x1 only where the channels change, 99,200 parameters, receptive field 63."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        paired = {"padding": 1, "groups": 32}  # of 64 channels two share a group
        self.block1 = nn.Sequential(*relu_norm(3, 32, padding=1), *relu_norm(32, 64, padding=1),
                                    *relu_norm(64, 64, **paired), *relu_norm(64, 64, **paired), *separable(64, 32, 32))
        self.transition1 = nn.Sequential(*dilated_transition(32))  # 32 x 26 x 26
        self.block2 = nn.Sequential(*separable(32, 64), *relu_norm(64, 64, padding=1, groups=64), *separable(64, 32))
        self.transition2 = nn.Sequential(*dilated_transition(32))  # 32 x 20 x 20
        self.block3 = nn.Sequential(*separable(32, 64), *relu_norm(64, 64, **paired), *separable(64, 32, groups=32))
        self.transition3 = nn.Conv2d(32, 32, 3, stride=2, padding=1, bias=False)  # 32 x 10 x 10
        self.block4 = nn.Sequential(*relu_norm(32, 32), nn.Conv2d(32, 16, 1, bias=False), *relu_norm(16, 16),
                                    *relu_norm(16, 16, padding=2, dilation=2))  # 16 x 6 x 6
        self.pool = nn.AvgPool2d(6)
        self.classifier = nn.Conv2d(16, num_classes, 1, bias=False)

    forward = S7.forward


class Net(nn.Module):
    """Strides, one dilated and one depthwise separable convolution, 44 channels throughout: 179,344 parameters.

    In the order of the published summary; the published class has the depthwise separable one before the last 3x3.
    """

    def __init__(self, num_classes: int = 10, channels: int = 44, dropout: float = 0.01) -> None:
        super().__init__()

        def same(**settings: int) -> list[nn.Module]:
            return relu_norm(channels, channels, dropout, **{"padding": 1} | settings)

        self.conv1 = nn.Sequential(*relu_norm(3, channels, dropout, padding=1), *same(), *same(stride=2))  # 16 x 16
        self.conv2 = nn.Sequential(*same(), *same(dilation=2, padding=2), *same(stride=2))  # 8 x 8
        self.conv3 = nn.Sequential(*same(), *same(), *same(stride=2))  # 4 x 4
        self.conv4 = nn.Sequential(
            *same(), *same(), nn.Conv2d(channels, channels, 3, padding=1, groups=channels),
            nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.BatchNorm2d(channels), nn.Dropout(dropout))  # 4 x 4
        self.pool = nn.AvgPool2d(4)
        self.classifier = nn.Linear(channels, num_classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv4(self.conv3(self.conv2(self.conv1(x))))
        return F.log_softmax(self.classifier(self.pool(x).flatten(1)), dim=1)


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2015, arXiv:1512.03385) for 32 x 32 pixels, as published: 11,173,952 parameters.

    A group norm of one group (Wu & He 2018) in place of each batch norm; the fourth stage keeps 8 x 8, for Grad-CAM.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        norm = functools.partial(nn.GroupNorm, 1)
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), norm(64), nn.ReLU())
        inputs, stages = 64, []
        for channels, stride in ((64, 1), (128, 2), (256, 2), (512, 1)):
            stages.append(nn.Sequential(BasicBlock(inputs, channels, stride, norm),
                                        BasicBlock(channels, channels, norm=norm)))
            inputs = channels
        self.layer1, self.layer2, self.layer3, self.layer4 = stages  # sides 32, 16, 8, 8
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Conv2d(512, num_classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return F.log_softmax(self.classifier(self.pool(x)).flatten(1), dim=1)
