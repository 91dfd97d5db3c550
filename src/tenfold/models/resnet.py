"""ResNet-18 to ResNet-152 (He et al., 2016, "Deep Residual Learning for Image Recognition", table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from tenfold.models.entry import Description, Entry, catalogued
from tenfold.models.images import check_ends, check_resolution, has_small_stem
from tenfold.nn.residual_blocks import BasicBlock, BottleneckBlock

PAPER = "He, Zhang, Ren and Sun, 2016, Deep Residual Learning for Image Recognition, arXiv:1512.03385"
STAGES = 4


class ResNet(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes) logits, for H and W of about 224.

    `depths` are the blocks of each stage, `widths` their inner widths. The stem is a 7×7 convolution of stride 2
    and a 3×3 max pool; `small_stem`, unless said otherwise for a `resolution` below 96, makes it one 3×3
    convolution of stride 1.
    """

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential
    layer4: nn.Sequential

    def __init__(
        self,
        block: type[BasicBlock] | type[BottleneckBlock],
        depths: Sequence[int],
        *,
        widths: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 1000,
        in_channels: int = 3,
        resolution: int = 224,
        small_stem: bool | None = None,
    ) -> None:
        super().__init__()
        if len(depths) != STAGES or len(widths) != STAGES or min(*depths, *widths) < 1:
            raise ValueError(
                f"depths {tuple(depths)} and widths {tuple(widths)} must be four each, at least 1"
            )
        small = has_small_stem(resolution, small_stem)
        check_ends(num_classes, in_channels)
        check_resolution("ResNet", resolution, 8 if small else 32)
        previous = widths[0]
        kernel, stride = (3, 1) if small else (7, 2)
        self.conv1 = nn.Conv2d(in_channels, previous, kernel, stride, padding=kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(previous)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(3, 2, padding=1)
        for index, (depth, width) in enumerate(zip(depths, widths, strict=True), start=1):
            blocks: list[nn.Module] = []
            for place in range(depth):
                blocks.append(block(previous, width, 2 if index > 1 and place == 0 else 1))
                previous = width * block.expansion
            setattr(self, f"layer{index}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(previous, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))

    def namings(self) -> dict[str, dict[str, str]]:
        """What timm and torchvision, which agree, call our modules."""
        shortcuts = [name for name, _ in self.named_modules() if name.endswith(".shortcut")]
        naming = {name: name.removesuffix("shortcut") + "downsample" for name in shortcuts}
        return {"torchvision or timm": naming}


def _entry(
    depth: int,
    block: type[BasicBlock] | type[BottleneckBlock],
    depths: tuple[int, ...],
    params: int,
    macs: int,
    top1: float,
) -> Entry:
    description = Description(
        f"resnet{depth}", "ResNet", PAPER, 224, params, macs, top1, "torchvision, IMAGENET1K_V1"
    )
    return Entry(partial(ResNet, block, depths), description)


NETWORKS = catalogued(
    _entry(18, BasicBlock, (2, 2, 2, 2), 11_689_512, 1_814_073_344, 69.758),
    _entry(34, BasicBlock, (3, 4, 6, 3), 21_797_672, 3_663_761_408, 73.314),
    _entry(50, BottleneckBlock, (3, 4, 6, 3), 25_557_032, 4_089_184_256, 76.13),
    _entry(101, BottleneckBlock, (3, 4, 23, 3), 44_549_160, 7_801_405_440, 77.374),
    _entry(152, BottleneckBlock, (3, 8, 36, 3), 60_192_808, 11_513_626_624, 78.312),
)
