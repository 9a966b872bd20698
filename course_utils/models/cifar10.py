"""Networks for CIFAR-10: (N, 3, 32, 32) normalised images -> (N, 10) logits."""
from __future__ import annotations

from torch import Tensor, nn

from course_utils.models.blocks import conv_block


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
