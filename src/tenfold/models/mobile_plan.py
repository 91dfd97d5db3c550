"""Scaling a table of the mobile family: from widths, depths and options to the exact blocks of one network."""

from __future__ import annotations

import math
from dataclasses import dataclass

from tenfold.errors import NetworkError
from tenfold.models.mobile_tables import Block, HeadWidth, Row, Stage, Table
from tenfold.nn import Activation, Squeeze, round_channels

MOST_BLOCKS = 1000  # of a stage


@dataclass(frozen=True)
class BlockPlan:
    """One block, every width resolved."""

    block: Block
    in_channels: int
    out_channels: int
    hidden: int
    kernel: int
    stride: int
    squeeze: Squeeze | None
    activation: Activation
    shortcut: bool


@dataclass(frozen=True)
class Plan:
    """A network of the mobile family, every width, depth and stride resolved."""

    table: Table
    stem: int
    stem_stride: int
    stages: tuple[tuple[BlockPlan, ...], ...]
    head: int
    hidden: int

    @property
    def blocks(self) -> tuple[BlockPlan, ...]:
        return tuple(block for stage in self.stages for block in stage)

    @property
    def stride(self) -> int:
        """Pixels of the input, along a side, to one cell of the last stage."""
        return self.stem_stride * math.prod(block.stride for block in self.blocks)

    @property
    def features(self) -> int:
        """Channels of the last stage."""
        return self.stages[-1][-1].out_channels


def planned(table: Table, width: float = 1.0, depth: float = 1.0, *, small_stem: bool = False) -> Plan:
    """The blocks of `table` with channels times `width`, rounded to eights, and ⌈repeats · `depth`⌉.

    `small_stem` takes away the stride of the stem and of the first stage that strides, as is usual for images of
    32 pixels. Raises `NetworkError` if width or depth leaves nothing of a layer.
    """
    _check(table, width, depth)

    def wide(channels: float) -> int:
        return round_channels(channels * width)

    previous = stem = table.stem if table.fixed_ends else wide(table.stem)
    unstrided = not small_stem
    stages = []
    for index, stage in enumerate(table.stages):
        fixed = table.fixed_ends and index in (0, len(table.stages) - 1)
        blocks = []
        for row, stride in _repeated(stage, 1.0 if fixed else depth):
            if stride > 1 and not unstrided:
                stride, unstrided = 1, True
            hidden = (
                wide(row.expansion) if table.absolute_expansion else round_channels(previous * row.expansion)
            )
            blocks.append(
                BlockPlan(
                    block=row.block,
                    in_channels=previous,
                    out_channels=wide(row.channels),
                    hidden=previous if row.block in (Block.SEPARABLE, Block.LINEAR) else hidden,
                    kernel=row.kernel,
                    stride=stride,
                    squeeze=table.squeeze if row.squeeze else None,
                    activation=row.activation or table.activation,
                    shortcut=row.shortcut,
                )
            )
            previous = blocks[-1].out_channels
        stages.append(tuple(blocks))
    head = {
        HeadWidth.FIXED: table.head,
        HeadWidth.SCALED: wide(table.head),
        HeadWidth.NEVER_NARROWER: max(table.head, wide(table.head)),
    }[table.head_width]
    return Plan(
        table=table,
        stem=stem,
        stem_stride=1 if small_stem else 2,
        stages=tuple(stages),
        head=head if table.head else 0,
        hidden=wide(table.hidden) if table.hidden else 0,
    )


def check_resolution(plan: Plan, resolution: int) -> None:
    """Raise `NetworkError` if the last stage would see less than one cell of an image of this side."""
    if resolution < plan.stride:
        hint = ", or a small stem (small_stem=True)" if plan.stem_stride > 1 else ""
        raise NetworkError(
            f"resolution {resolution} is too small: the strides of {plan.table.family} divide a side by "
            f"{plan.stride}; take at least {plan.stride} pixels{hint}"
        )


def _repeated(stage: Stage, depth: float) -> list[tuple[Row, int]]:
    """The rows of a stage, each with its stride, ⌈blocks · depth⌉ in all; what is added repeats the last block."""
    rows = [row for row in stage for _ in range(row.repeats)]
    number = math.ceil(len(rows) * depth)
    rows = rows[:number] + rows[-1:] * (number - len(rows))
    return [(row, row.stride if index == 0 else 1) for index, row in enumerate(rows)]


def _check(table: Table, width: float, depth: float) -> None:
    for what, value in (("width", width), ("depth", depth)):
        if not (math.isfinite(value) and value > 0):
            raise NetworkError(f"{what} must be a positive number, not {value}")
    narrowest = min(row.channels for stage in table.stages for row in stage)
    if narrowest * width < 1:
        raise NetworkError(
            f"width {width} rounds to nothing: {table.family}'s narrowest stage has {narrowest} channels; "
            f"take at least {1 / narrowest:.3g}"
        )
    longest = max(sum(row.repeats for row in stage) for stage in table.stages)
    if longest * depth > MOST_BLOCKS:
        raise NetworkError(
            f"depth {depth:.4g} makes stages of more than {MOST_BLOCKS} blocks: take at most {MOST_BLOCKS / longest:.3g}"
        )
    if longest * depth < 0.5:
        raise NetworkError(
            f"depth {depth} rounds to nothing: {table.family}'s longest stage has {longest} blocks; "
            f"take at least {0.5 / longest:.3g}"
        )
