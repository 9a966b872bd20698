"""Networks for STL-10: (N, 3, 96, 96) normalized images -> (N, 10) logits; other sides work as well.

Exactly as the published code executes them: a pooling that is defined and never called is left out, an activation that
is called twice is called twice. ``logit_activation`` is the published last layer, an activation on the logits
themselves: a logit that a ReLU sets to 0 gets no gradient, so for such an image that class learns nothing.
"""
import functools

from torch import Tensor, nn

from course_utils.models.blocks import Bottleneck


class ConvNet(nn.Module):
    """Convolution, activation, batch norm, layer after layer; global average pooling and a linear layer at the end."""

    LAYERS: tuple[tuple[int, int, int, int, bool], ...]  # channels, kernel, stride, padding, 2x2 max pooling after it

    def __init__(self, num_classes: int = 10, slope: float = 0.0, logit_activation: bool = True) -> None:
        super().__init__()
        activation = functools.partial(nn.LeakyReLU, slope) if slope else nn.ReLU
        layers, inputs = [], 3
        for channels, kernel, stride, padding, pool in self.LAYERS:
            twice = [activation()] if inputs == 3 else []  # as published: a slope of 0.1 becomes 0.01
            layers += [nn.Conv2d(inputs, channels, kernel, stride, padding), activation(), *twice,
                       nn.BatchNorm2d(channels), *([nn.MaxPool2d(2)] if pool else [])]
            inputs = channels
        self.features = nn.Sequential(*layers)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)
        self.last = activation() if logit_activation else nn.Identity()
        init_kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.classifier(self.pool(self.features(x)).flatten(1)))


class LeNetWide(ConvNet):
    """LE-NET of version 2.2: 1,565,706 parameters."""

    LAYERS = ((64, 7, 2, 3, True), (128, 3, 1, 2, False), (256, 3, 1, 2, True), (512, 3, 1, 2, False))


class CustomNet(ConvNet):
    """Custom-Net of versions 2.2 and 2.3: 1,899,274 parameters. ``slope=0.1`` is its Leaky ReLU."""

    LAYERS = ((64, 5, 2, 3, True), (128, 4, 1, 2, False), (128, 4, 1, 2, False), (128, 1, 1, 0, False),
              (256, 3, 1, 2, False), (256, 3, 1, 2, False), (256, 1, 1, 0, True), (512, 2, 1, 2, False))


class CustomNet256(ConvNet):
    """Custom-Net with a 256-wide end, of version 2.4: 1,895,882 parameters."""

    LAYERS = ((64, 7, 2, 3, True), (64, 3, 1, 2, False), (128, 3, 1, 2, False), (128, 3, 1, 0, False),
              (128, 3, 1, 2, False), (256, 3, 1, 2, False), (256, 3, 1, 0, True), (256, 3, 1, 2, False))


class GroupedResNet(nn.Module):
    """ResNet of grouped bottlenecks, of version 2.5: 1,939,530 parameters.

    ResNeXt's bottlenecks (Xie et al. 2016, arXiv:1611.05431) with 8 groups of width 4, in three stages of 3, 6 and 3.
    """

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(),
                                  nn.MaxPool2d(3, 2, 1))  # 64 x 24 x 24
        inputs, stages = 64, []
        for planes, blocks, stride in ((64, 3, 1), (128, 6, 2), (256, 3, 2)):
            first = Bottleneck(inputs, planes, stride)
            inputs = 4 * planes
            stages.append(nn.Sequential(first, *(Bottleneck(inputs, planes) for _ in range(blocks - 1))))
        self.stage1, self.stage2, self.stage3 = stages  # sides 24, 12, 6
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(inputs, num_classes)
        init_kaiming(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage3(self.stage2(self.stage1(self.stem(x))))
        return self.classifier(self.pool(x).flatten(1))


def init_kaiming(model: nn.Module) -> None:
    """Convolutions Kaiming-normal (He et al. 2015, fan_out), as the published code has them."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
