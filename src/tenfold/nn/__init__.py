"""Efficient building blocks, parametric so that a design space can vary them."""

from tenfold.nn.activations import Activation
from tenfold.nn.attention import SelfAttention, TransformerBlock
from tenfold.nn.channels import round_channels
from tenfold.nn.convnext_block import ChannelNorm, ConvNeXtBlock
from tenfold.nn.convolutions import ConvNormAct, ConvStyle, DepthwiseSeparableConv, SamePadding
from tenfold.nn.fire import Fire
from tenfold.nn.inverted_residuals import FusedInvertedResidual, InvertedResidual
from tenfold.nn.mixer import MixerBlock
from tenfold.nn.mlp import Mlp
from tenfold.nn.patches import PatchEmbedding, PatchMerging
from tenfold.nn.residual_blocks import BasicBlock, BottleneckBlock
from tenfold.nn.squeeze_excite import Squeeze, SqueezeExcite
from tenfold.nn.stochastic_depth import StochasticDepth, depth_rates
from tenfold.nn.token_merging import Matching, MergingBlock, match_tokens
from tenfold.nn.windows import WindowAttention, WindowBlock

__all__ = [
    "Activation",
    "BasicBlock",
    "BottleneckBlock",
    "ChannelNorm",
    "ConvNeXtBlock",
    "ConvNormAct",
    "ConvStyle",
    "DepthwiseSeparableConv",
    "Fire",
    "FusedInvertedResidual",
    "InvertedResidual",
    "Matching",
    "MergingBlock",
    "MixerBlock",
    "Mlp",
    "PatchEmbedding",
    "PatchMerging",
    "SamePadding",
    "SelfAttention",
    "Squeeze",
    "SqueezeExcite",
    "StochasticDepth",
    "TransformerBlock",
    "WindowAttention",
    "WindowBlock",
    "depth_rates",
    "match_tokens",
    "round_channels",
]
