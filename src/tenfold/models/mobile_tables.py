"""The tables of the mobile family, as the papers print them: a table a network, a row for each kind of block.

A row: the block, how often, its kernel, the stride of the first, its expansion, its channels. Rows of one resolution
and width stand together as a stage. Widths and depths are those of scale 1; `models/mobile_plan.py` scales them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from tenfold.nn import Activation, Squeeze


class Block(Enum):
    """The kinds of blocks."""

    SEPARABLE = "depthwise separable, active after both convolutions, no shortcut (MobileNetV1)"
    LINEAR = "depthwise separable with a linear end: an inverted residual that does not expand"
    INVERTED = "inverted residual with linear bottleneck"
    FUSED = "fused inverted residual"


class Row(NamedTuple):
    block: Block
    repeats: int
    kernel: int
    stride: int  # of the first repeat
    expansion: float  # times the block's input; the expanded channels themselves where the table says so
    channels: int
    squeeze: bool = False
    activation: Activation | None = None  # the table's where None
    shortcut: bool = True


Stage = tuple[Row, ...]


class HeadWidth(Enum):
    """What a width multiplier does to the last convolution."""

    SCALED = "scales with the network"
    FIXED = "keeps its width"
    NEVER_NARROWER = "scales up, never down"


@dataclass(frozen=True)
class Table:
    """A network. `head` is the last 1×1 convolution (0: none), `hidden` a linear layer after pooling (0: none).

    `fixed_ends`: stem, head, and the depths of the first and the last stage do not scale.
    """

    family: str
    paper: str
    stem: int
    stages: tuple[Stage, ...]
    head: int
    activation: Activation
    head_width: HeadWidth = HeadWidth.SCALED
    hidden: int = 0
    squeeze: Squeeze = Squeeze.EFFICIENTNET
    absolute_expansion: bool = False
    fixed_ends: bool = False
    norm_eps: float = 1e-5
    norm_momentum: float = 0.1
    same_padding: bool = False
    dropout: float = 0.2


S, L, I, F = Block.SEPARABLE, Block.LINEAR, Block.INVERTED, Block.FUSED  # noqa: E741
RELU, HARD_SWISH = Activation.RELU, Activation.HARD_SWISH

MOBILENET_V1 = Table(
    family="MobileNetV1",
    paper="Howard et al., 2017, MobileNets, arXiv:1704.04861",
    stem=32,
    stages=(
        (Row(S, 1, 3, 1, 1, 64),),
        (Row(S, 2, 3, 2, 1, 128),),
        (Row(S, 2, 3, 2, 1, 256),),
        (Row(S, 6, 3, 2, 1, 512),),
        (Row(S, 2, 3, 2, 1, 1024),),
    ),
    head=0,
    activation=Activation.RELU6,
)

MOBILENET_V2 = Table(
    family="MobileNetV2",
    paper="Sandler et al., 2018, MobileNetV2, arXiv:1801.04381",
    stem=32,
    stages=(
        (Row(L, 1, 3, 1, 1, 16),),
        (Row(I, 2, 3, 2, 6, 24),),
        (Row(I, 3, 3, 2, 6, 32),),
        (Row(I, 4, 3, 2, 6, 64),),
        (Row(I, 3, 3, 1, 6, 96),),
        (Row(I, 3, 3, 2, 6, 160),),
        (Row(I, 1, 3, 1, 6, 320),),
    ),
    head=1280,
    head_width=HeadWidth.NEVER_NARROWER,
    activation=Activation.RELU6,
)

V3_PAPER = "Howard et al., 2019, Searching for MobileNetV3, arXiv:1905.02244"

MOBILENET_V3_SMALL = Table(
    family="MobileNetV3",
    paper=V3_PAPER,
    stem=16,
    stages=(
        (Row(L, 1, 3, 2, 16, 16, True, RELU),),
        (Row(I, 1, 3, 2, 72, 24, False, RELU), Row(I, 1, 3, 1, 88, 24, False, RELU)),
        (Row(I, 1, 5, 2, 96, 40, True), Row(I, 2, 5, 1, 240, 40, True)),
        (Row(I, 1, 5, 1, 120, 48, True), Row(I, 1, 5, 1, 144, 48, True)),
        (Row(I, 1, 5, 2, 288, 96, True), Row(I, 2, 5, 1, 576, 96, True)),
    ),
    head=576,
    hidden=1024,
    activation=HARD_SWISH,
    squeeze=Squeeze.MOBILENET_V3,
    absolute_expansion=True,
    norm_eps=1e-3,
    norm_momentum=0.01,
)

MOBILENET_V3_LARGE = Table(
    family="MobileNetV3",
    paper=V3_PAPER,
    stem=16,
    stages=(
        (Row(L, 1, 3, 1, 16, 16, False, RELU),),
        (Row(I, 1, 3, 2, 64, 24, False, RELU), Row(I, 1, 3, 1, 72, 24, False, RELU)),
        (Row(I, 1, 5, 2, 72, 40, True, RELU), Row(I, 2, 5, 1, 120, 40, True, RELU)),
        (Row(I, 1, 3, 2, 240, 80), Row(I, 1, 3, 1, 200, 80), Row(I, 2, 3, 1, 184, 80)),
        (Row(I, 1, 3, 1, 480, 112, True), Row(I, 1, 3, 1, 672, 112, True)),
        (Row(I, 1, 5, 2, 672, 160, True), Row(I, 2, 5, 1, 960, 160, True)),
    ),
    head=960,
    hidden=1280,
    activation=HARD_SWISH,
    squeeze=Squeeze.MOBILENET_V3,
    absolute_expansion=True,
    norm_eps=1e-3,
    norm_momentum=0.01,
)

MNASNET_PAPER = "Tan et al., 2019, MnasNet, arXiv:1807.11626"

MNASNET_A1 = Table(
    family="MnasNet",
    paper=MNASNET_PAPER,
    stem=32,
    stages=(
        (Row(L, 1, 3, 1, 1, 16, shortcut=False),),
        (Row(I, 2, 3, 2, 6, 24),),
        (Row(I, 3, 5, 2, 3, 40, True),),
        (Row(I, 4, 3, 2, 6, 80),),
        (Row(I, 2, 3, 1, 6, 112, True),),
        (Row(I, 3, 5, 2, 6, 160, True),),
        (Row(I, 1, 3, 1, 6, 320),),
    ),
    head=1280,
    head_width=HeadWidth.FIXED,
    activation=RELU,
)

MNASNET_B1 = Table(
    family="MnasNet",
    paper=MNASNET_PAPER,
    stem=32,
    stages=(
        (Row(L, 1, 3, 1, 1, 16, shortcut=False),),
        (Row(I, 3, 3, 2, 3, 24),),
        (Row(I, 3, 5, 2, 3, 40),),
        (Row(I, 3, 5, 2, 6, 80),),
        (Row(I, 2, 3, 1, 6, 96),),
        (Row(I, 4, 5, 2, 6, 192),),
        (Row(I, 1, 3, 1, 6, 320),),
    ),
    head=1280,
    head_width=HeadWidth.FIXED,
    activation=RELU,
)

EFFICIENTNET_PAPER = "Tan and Le, 2019, EfficientNet, arXiv:1905.11946"

EFFICIENTNET = Table(
    family="EfficientNet",
    paper=EFFICIENTNET_PAPER,
    stem=32,
    stages=(
        (Row(L, 1, 3, 1, 1, 16, True),),
        (Row(I, 2, 3, 2, 6, 24, True),),
        (Row(I, 2, 5, 2, 6, 40, True),),
        (Row(I, 3, 3, 2, 6, 80, True),),
        (Row(I, 3, 5, 1, 6, 112, True),),
        (Row(I, 4, 5, 2, 6, 192, True),),
        (Row(I, 1, 3, 1, 6, 320, True),),
    ),
    head=1280,
    activation=Activation.SILU,
)

# EfficientNet without squeeze-and-excitation and with ReLU6, which fixed-point runtimes do well; the reference
# implementation (tensorflow/tpu, efficientnet/lite) pads as TensorFlow does, and the published weights want that.
EFFICIENTNET_LITE = Table(
    family="EfficientNet-Lite",
    paper=f"Liu, 2020, Higher accuracy on vision models with EfficientNet-Lite (blog); {EFFICIENTNET_PAPER}",
    stem=32,
    stages=tuple(tuple(row._replace(squeeze=False) for row in stage) for stage in EFFICIENTNET.stages),
    head=1280,
    head_width=HeadWidth.FIXED,
    activation=Activation.RELU6,
    fixed_ends=True,
    norm_eps=1e-3,
    norm_momentum=0.01,
    same_padding=True,
)

EFFICIENTNET_V2_S = Table(
    family="EfficientNetV2",
    paper="Tan and Le, 2021, EfficientNetV2, arXiv:2104.00298",
    stem=24,
    stages=(
        (Row(F, 2, 3, 1, 1, 24),),
        (Row(F, 4, 3, 2, 4, 48),),
        (Row(F, 4, 3, 2, 4, 64),),
        (Row(I, 6, 3, 2, 4, 128, True),),
        (Row(I, 9, 3, 1, 6, 160, True),),
        (Row(I, 15, 3, 2, 6, 256, True),),
    ),
    head=1280,
    activation=Activation.SILU,
    norm_eps=1e-3,
)

FBNET_C = Table(
    family="FBNet",
    paper="Wu et al., 2019, FBNet, arXiv:1812.03443",
    stem=16,
    stages=(
        (Row(I, 1, 3, 1, 1, 16),),
        (Row(I, 1, 3, 2, 6, 24), Row(I, 2, 3, 1, 1, 24)),
        (Row(I, 1, 5, 2, 6, 32), Row(I, 1, 5, 1, 3, 32), Row(I, 1, 5, 1, 6, 32), Row(I, 1, 3, 1, 6, 32)),
        (Row(I, 1, 5, 2, 6, 64), Row(I, 1, 5, 1, 3, 64), Row(I, 2, 5, 1, 6, 64)),
        (Row(I, 3, 5, 1, 6, 112), Row(I, 1, 5, 1, 3, 112)),
        (Row(I, 4, 5, 2, 6, 184),),
        (Row(I, 1, 3, 1, 6, 352),),
    ),
    head=1984,
    head_width=HeadWidth.FIXED,
    activation=RELU,
)
