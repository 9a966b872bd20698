"""The network of variant ``best``, loaded as a custom network, ``FILE.py:CLASS``, as a student's would be."""
from torch import Tensor, nn

from course_utils.models.blocks import BasicBlock
from course_utils.models.stl10 import init_kaiming


class ResidualNet(nn.Module):
    """A plain residual network (He et al. 2015, arXiv:1512.03385) of 1.81 M parameters.

    Four stages, each at half the size of the one before: whole objects need a large receptive field more than fine
    detail. The last batch norm of a block starts at 0, so that each block starts as the identity (Goyal et al. 2017,
    arXiv:1706.02677).
    """

    cuda_graph = True  # on a GPU its training steps may be recorded and replayed
    STAGES = ((40, 2), (80, 2), (160, 2), (208, 1))  # channels, blocks; sides 48, 24, 12 and 6 of 96 pixels

    def __init__(self, num_classes: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        inputs = self.STAGES[0][0]
        self.stem = nn.Sequential(nn.Conv2d(3, inputs, 5, 2, 2, bias=False), nn.BatchNorm2d(inputs), nn.ReLU())
        stages = []
        for number, (channels, blocks) in enumerate(self.STAGES):
            first = BasicBlock(inputs, channels, stride=2 if number else 1)
            stages.append(nn.Sequential(first, *(BasicBlock(channels, channels) for _ in range(blocks - 1))))
            inputs = channels
        self.stage1, self.stage2, self.stage3, self.stage4 = stages
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(inputs, num_classes))
        init_kaiming(self)
        for module in self.modules():
            if isinstance(module, BasicBlock):
                nn.init.zeros_(module.residual[-1].weight)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        return self.classifier(self.pool(x).flatten(1))
