"""Efficient building blocks, parametric so that a design space can vary them."""

from tenfold.nn.activations import Activation
from tenfold.nn.channels import round_channels
from tenfold.nn.convolutions import ConvNormAct, ConvStyle, DepthwiseSeparableConv, SamePadding
from tenfold.nn.inverted_residuals import FusedInvertedResidual, InvertedResidual
from tenfold.nn.squeeze_excite import Squeeze, SqueezeExcite
from tenfold.nn.stochastic_depth import StochasticDepth

__all__ = [
    "Activation",
    "ConvNormAct",
    "ConvStyle",
    "DepthwiseSeparableConv",
    "FusedInvertedResidual",
    "InvertedResidual",
    "SamePadding",
    "Squeeze",
    "SqueezeExcite",
    "StochasticDepth",
    "round_channels",
]
