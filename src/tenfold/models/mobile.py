"""One builder for the whole mobile family: MobileNetV1 to V3, MnasNet, EfficientNet, its Lite and V2, FBNet."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tenfold.models.images import check_ends, has_small_stem
from tenfold.models.mobile_names import module_names
from tenfold.models.mobile_plan import BlockPlan, Plan, check_resolution, planned
from tenfold.models.mobile_tables import Block, Table
from tenfold.nn import ConvNormAct, ConvStyle, DepthwiseSeparableConv, FusedInvertedResidual, InvertedResidual


class MobileNetwork(nn.Module):
    """(N, in_channels, H, W) -> (N, num_classes) logits: stem, stages of blocks, head, pooling, classifier.

    `drop_path` is the rate of stochastic depth at the last block; it rises linearly from 0 at the first.
    """

    def __init__(
        self,
        plan: Plan,
        style: ConvStyle,
        num_classes: int,
        in_channels: int,
        *,
        dropout: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.plan = plan
        self.stem = ConvNormAct(in_channels, plan.stem, 3, plan.stem_stride, style=style)
        rates = iter([drop_path * index / len(plan.blocks) for index in range(len(plan.blocks))])
        self.stages = nn.Sequential(
            *(nn.Sequential(*(built(block, style, next(rates)) for block in stage)) for stage in plan.stages)
        )
        features = plan.features
        self.head: nn.Module = (
            ConvNormAct(features, plan.head, 1, style=style) if plan.head else nn.Identity()
        )
        features = plan.head or features
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.hidden: nn.Module = nn.Identity()
        if plan.hidden:
            self.hidden = nn.Sequential(nn.Linear(features, plan.hidden), style.activation.layer())
            features = plan.hidden
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(features, num_classes)
        initialise(self)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.stages(self.stem(x)))
        x = self.hidden(torch.flatten(self.pool(x), 1))
        return self.classifier(self.dropout(x))

    def namings(self) -> dict[str, Mapping[str, str]]:
        """What timm, torchvision and efficientnet_pytorch call the modules (see `models/weights.py`)."""
        return module_names(self.plan)


def built(block: BlockPlan, style: ConvStyle, drop_path: float = 0.0) -> nn.Module:
    """The module of a planned block."""
    style = ConvStyle(block.activation, style.norm_eps, style.norm_momentum, style.same_padding)
    ends = (block.in_channels, block.out_channels)
    if block.block in (Block.SEPARABLE, Block.LINEAR):
        return DepthwiseSeparableConv(
            *ends,
            block.kernel,
            block.stride,
            linear=block.block is Block.LINEAR,
            shortcut=block.shortcut,
            squeeze=block.squeeze,
            style=style,
            drop_path=drop_path,
        )
    shape = (*ends, block.hidden, block.kernel, block.stride)
    if block.block is Block.FUSED:
        return FusedInvertedResidual(*shape, shortcut=block.shortcut, style=style, drop_path=drop_path)
    return InvertedResidual(
        *shape, shortcut=block.shortcut, squeeze=block.squeeze, style=style, drop_path=drop_path
    )


def initialise(model: nn.Module) -> None:
    """Random weights as the reference implementations draw them: normal, by the fan-out of one group."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            fan_out = math.prod(module.kernel_size) * module.out_channels // module.groups
            nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)


def mobile_network(
    table: Table,
    scale: tuple[float, float],
    published: int,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    num_classes: int = 1000,
    in_channels: int = 3,
    resolution: int | None = None,
    small_stem: bool | None = None,
    dropout: float | None = None,
    drop_path: float = 0.0,
    norm_eps: float | None = None,
    same_padding: bool | None = None,
) -> MobileNetwork:
    """The network of `table` at `scale` (width, depth), for images of the `published` side.

    `width` and `depth` multiply those of the network. `resolution` is the side of the images it is for; below 96
    pixels the stem and the first stage keep the resolution (`small_stem` says otherwise). `norm_eps` and
    `same_padding` are for weights that were trained with other conventions than the table's.
    """
    check_ends(num_classes, in_channels)
    side = published if resolution is None else resolution
    plan = planned(
        table,
        scale[0] * width,
        scale[1] * depth,
        small_stem=has_small_stem(side, small_stem),
    )
    check_resolution(plan, side)
    style = ConvStyle(
        activation=table.activation,
        norm_eps=table.norm_eps if norm_eps is None else norm_eps,
        norm_momentum=table.norm_momentum,
        same_padding=table.same_padding if same_padding is None else same_padding,
    )
    return MobileNetwork(
        plan,
        style,
        num_classes,
        in_channels,
        dropout=table.dropout if dropout is None else dropout,
        drop_path=drop_path,
    )
