"""The residual networks for small images (He et al., 2016, "Deep Residual Learning", section 4.2).

Depth 6n + 2: a 3×3 stem, three stages of n basic blocks with 16, 32 and 64 channels, global average
pooling and a linear classifier. Where a block changes shape, its shortcut is a 1×1 convolution with
batch norm (option B of the paper).
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from tenfold.models.entry import Description, Entry, catalogued
from tenfold.nn.residual_blocks import BasicBlock

STAGE_WIDTHS = (16, 32, 64)

# Depth: parameters, multiply-adds at 32×32, top-1 on CIFAR-10 (the paper's table 6; its shortcuts are option A,
# without parameters, so that its networks are 0.3 to 1% smaller).
PUBLISHED = {
    20: (272_474, 40_813_184, 91.25),
    32: (466_906, 69_124_736, 92.49),
    44: (661_338, 97_436_288, 92.83),
    56: (855_770, 125_747_840, 93.03),
    110: (1_730_714, 253_149_824, 93.57),
}
DEPTHS = tuple(PUBLISHED)


class CifarResNet(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes) logits, for H and W of about 32."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, depth: int = 56, num_classes: int = 10, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"depth must be 6n + 2 with n >= 1 (8, 14, 20, …), not {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, STAGE_WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STAGE_WIDTHS[0])
        self.relu = nn.ReLU(inplace=True)
        previous = STAGE_WIDTHS[0]
        for index, width in enumerate(STAGE_WIDTHS, start=1):
            first_stride = 1 if index == 1 else 2
            stage = nn.Sequential(
                *(
                    BasicBlock(previous if i == 0 else width, width, first_stride if i == 0 else 1)
                    for i in range(blocks)
                )
            )
            setattr(self, f"layer{index}", stage)
            previous = width
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(previous, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def _entry(depth: int) -> Entry:
    params, macs, top1 = PUBLISHED[depth]
    return Entry(
        partial(CifarResNet, depth),
        Description(
            name=f"resnet{depth}",
            family="ResNet for CIFAR",
            paper="He et al., 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385",
            resolution=32,
            params=params,
            macs=macs,
            top1=top1,
            top1_source="the paper",
            data="CIFAR-10",
        ),
    )


NETWORKS = catalogued(*map(_entry, DEPTHS))
