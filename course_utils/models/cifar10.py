"""Networks for CIFAR-10: (N, 3, 32, 32) normalised images -> (N, 10) logits."""
from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from course_utils.models.blocks import BasicBlock, SeparableBlock, conv_block, dilated_transition, relu_norm, separable


class CustomResNet(nn.Module):
    """The assignment's ResNet, 6,573,130 parameters, 379.27 M mult-adds.

    Of the family of David Page's 9-layer net for DAWNBench (cifar10-fast): three widening layers, residual blocks
    after the first and the third. Layer by layer as the assignment's document prints it; the document does not give
    the dropout rate, here 0 unless set.
    """

    def __init__(self, classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        self.prep = nn.Sequential(*conv_block(3, 64, dropout=dropout))
        self.layer1_x = nn.Sequential(*conv_block(64, 128, pool=True, dropout=dropout))
        self.layer1_r = nn.Sequential(*conv_block(128, 128, dropout=dropout), *conv_block(128, 128, dropout=dropout))
        self.layer2 = nn.Sequential(*conv_block(128, 256, pool=True, dropout=dropout))
        self.layer3_x = nn.Sequential(*conv_block(256, 512, pool=True, dropout=dropout))
        self.layer3_r = nn.Sequential(*conv_block(512, 512, dropout=dropout), *conv_block(512, 512, dropout=dropout))
        self.pool = nn.MaxPool2d(4)
        self.fc = nn.Linear(512, classes)

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
    """Depthwise separable convolutions, dilated transitions: 99,744 parameters, receptive field 61.

    Published as S7_CNNModel. Where the first and third block have 64 channels, two of them share a group.
    """

    def __init__(self, classes: int = 10) -> None:
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
        self.classifier = nn.Conv2d(16, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.transition1(self.block1(x))
        x = self.transition2(self.block2(x))
        x = self.transition3(self.block3(x))
        x = self.classifier(self.pool(self.block4(x)))
        return F.log_softmax(x.flatten(1), dim=1)


class S7Mixed(nn.Module):
    """Depthwise convolutions alone, a 1x1 only where the channels change: 99,200 parameters, receptive field 63.

    Published as S7_CNNModel_mixed.
    """

    def __init__(self, classes: int = 10) -> None:
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
        self.classifier = nn.Conv2d(16, classes, 1, bias=False)

    forward = S7.forward


class Net(nn.Module):
    """Strides, one dilated and one depthwise separable convolution, 44 channels throughout: 179,344 parameters.

    In the order of the published summary, the depthwise separable convolution last. (The class body printed beside it
    has that before the last 3x3; neither parameters nor receptive field depend on it.)
    """

    def __init__(self, classes: int = 10, channels: int = 44, dropout: float = 0.01) -> None:
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
        self.classifier = nn.Linear(channels, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv4(self.conv3(self.conv2(self.conv1(x))))
        return F.log_softmax(self.classifier(self.pool(x).flatten(1)), dim=1)


class DilatedNet(nn.Module):
    """Our own: 182,106 parameters, no stride and no pooling but the last.

    Depthwise separable residual blocks (as MobileNet's and ResNet's together). A kernel of dilation 3 without padding
    takes six pixels off the side of a map, three times, 32 -> 26 -> 20 -> 14; in between the dilation alternates, so
    that neighbouring outputs do not keep to their own sub-grid (Wang et al. 2018, arXiv:1702.08502).
    """

    STAGES = ((40, 2), (72, 3), (96, 4), (128, 5))  # channels, residual blocks

    def __init__(self, classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        (first, blocks), *others = self.STAGES
        self.stem = nn.Sequential(*conv_block(3, first))
        self.stage1 = nn.Sequential(*self._alternating(first, blocks))  # 40 x 32 x 32
        inputs = first
        for number, (channels, blocks) in enumerate(others, 2):  # ... to 128 x 14 x 14
            shrink = SeparableBlock(inputs, channels, dilation=3, shrink=True)
            self.add_module(f"stage{number}", nn.Sequential(shrink, *self._alternating(channels, blocks)))
            inputs = channels
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, classes))

    @staticmethod
    def _alternating(channels: int, blocks: int) -> list[nn.Module]:
        return [SeparableBlock(channels, channels, dilation=1 + number % 2) for number in range(blocks)]

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        return self.classifier(self.pool(x).flatten(1))


class ResNet18(nn.Module):
    """ResNet-18 (He et al. 2015, arXiv:1512.03385) for 32 x 32 pixels: 11,173,952 parameters.

    A 3x3 stem without stride or pooling in place of the 7x7 one, and no bias in the last layer.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.layer1 = nn.Sequential(BasicBlock(64, 64), BasicBlock(64, 64))  # 32 x 32
        self.layer2 = nn.Sequential(BasicBlock(64, 128, stride=2), BasicBlock(128, 128))
        self.layer3 = nn.Sequential(BasicBlock(128, 256, stride=2), BasicBlock(256, 256))
        self.layer4 = nn.Sequential(BasicBlock(256, 512, stride=2), BasicBlock(512, 512))  # 4 x 4
        self.pool = nn.AvgPool2d(4)
        self.classifier = nn.Linear(512, classes, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))
        return F.log_softmax(self.classifier(self.pool(x).flatten(1)), dim=1)
