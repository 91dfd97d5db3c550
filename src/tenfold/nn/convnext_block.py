"""The ConvNeXt block (Liu et al., 2022, "A ConvNet for the 2020s", fig. 4) and its layer norm over channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tenfold.nn.mlp import Mlp
from tenfold.nn.stochastic_depth import StochasticDepth


class ChannelNorm(nn.Module):
    """Layer norm over the channels at each place: (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """Depthwise K×K, layer norm, 1×1 up and down with GELU, a learned scale: (N, C, H, W) -> (N, C, H, W).

    The 1×1 convolutions are linear layers on channels-last data. Multiply-accumulates, with e = expansion:
    (K²·C + 2·e·C²)·H·W.
    """

    def __init__(
        self,
        channels: int,
        *,
        kernel: int = 7,
        expansion: float = 4,
        drop_path: float = 0.0,
        initial_scale: float = 1e-6,
    ) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.mlp = Mlp(channels, int(expansion * channels))
        self.scale = nn.Parameter(torch.full((channels,), initial_scale))
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = (self.mlp(y) * self.scale).permute(0, 3, 1, 2)
        return x + self.drop_path(y)
