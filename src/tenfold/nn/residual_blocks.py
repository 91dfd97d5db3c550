"""The two blocks of residual networks (He et al., 2016, "Deep Residual Learning for Image Recognition", fig. 5)."""

from __future__ import annotations

from torch import Tensor, nn


def shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    """The identity, or where the shape changes a 1×1 convolution with batch norm (option B of the paper)."""
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
    )


class BasicBlock(nn.Module):
    """Two 3×3 convolutions and a shortcut: (N, Cin, H, W) -> (N, Cout, H / stride, W / stride).

    Multiply-accumulates, with P = H·W / stride² places of the output: 9·Cin·Cout·P + 9·Cout²·P, and Cin·Cout·P
    for the shortcut where the shape changes.
    """

    expansion = 1  # output channels for each unit of `width`

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return self.relu(y + self.shortcut(x))


class BottleneckBlock(nn.Module):
    """1×1 down to `width`, 3×3, 1×1 up to 4·width: (N, Cin, H, W) -> (N, 4·width, H / stride, W / stride).

    The stride is in the 3×3 convolution ("v1.5": ResNet-50 at 4.09 GMACs), not in the first 1×1 as in the paper.
    Multiply-accumulates, with w = width and P = H·W / stride²: Cin·w·H·W + 9·w²·P + 4·w²·P, and 4·Cin·w·P for the
    shortcut where the shape changes.
    """

    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int = 1) -> None:
        super().__init__()
        out_channels = self.expansion * width
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = shortcut(in_channels, out_channels, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return self.relu(y + self.shortcut(x))
