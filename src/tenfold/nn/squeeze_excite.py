"""Squeeze-and-excitation (Hu et al., 2018, arXiv:1709.01507), in the two conventions of the mobile networks."""

from __future__ import annotations

from enum import Enum

from torch import Tensor, nn

from tenfold.nn.activations import Activation
from tenfold.nn.channels import round_channels

REDUCTION = 4  # both conventions squeeze to a quarter, of different things


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from the means of all: (N, C, H, W) -> (N, C, H, W).

    With C channels squeezed to S: 2·C·S multiply-adds (whatever the resolution) and 2·C·S + C + S parameters.
    """

    def __init__(self, channels: int, squeezed: int, activation: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, squeezed, 1)
        self.act = activation
        self.expand = nn.Conv2d(squeezed, channels, 1)
        self.gate = gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(self.act(self.reduce(self.pool(x)))))


class Squeeze(Enum):
    """How wide the squeeze is, and which functions it uses."""

    EFFICIENTNET = "a quarter of the block's input, unrounded; the block's activation and a sigmoid"
    MOBILENET_V3 = "a quarter of the expanded width, rounded to eights; ReLU and a hard sigmoid"

    def width(self, inputs: int, hidden: int) -> int:
        """The squeezed width in a block with `inputs` channels, expanded to `hidden`."""
        if self is Squeeze.EFFICIENTNET:
            return max(1, inputs // REDUCTION)
        return round_channels(hidden // REDUCTION)

    def layer(self, inputs: int, hidden: int, activation: Activation) -> SqueezeExcite:
        """The layer for the `hidden` channels of such a block."""
        squeezed = self.width(inputs, hidden)
        if self is Squeeze.EFFICIENTNET:
            return SqueezeExcite(hidden, squeezed, activation.layer(), nn.Sigmoid())
        return SqueezeExcite(hidden, squeezed, Activation.RELU.layer(), nn.Hardsigmoid(inplace=True))
