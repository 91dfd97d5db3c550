"""The activations of the efficient networks, as a choice that is checked."""

from __future__ import annotations

from enum import Enum

from torch import nn


class Activation(Enum):
    """Hard-swish and hard-sigmoid are the piecewise forms of Howard et al., 2019 (MobileNetV3, section 5.2)."""

    RELU = nn.ReLU
    RELU6 = nn.ReLU6
    SILU = nn.SiLU
    HARD_SWISH = nn.Hardswish

    def layer(self) -> nn.Module:
        """A new layer that works in place: the convolutions and norms before it do not need their result."""
        return self.value(inplace=True)
