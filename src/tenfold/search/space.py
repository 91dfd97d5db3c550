"""What can be changed in a network's structure: how many blocks of each stage stay, and how wide the layers are."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LARGEST_NUMBER_OF_GROUPS = 8
STEP = 0.125  # of the share of channels kept
NARROWEST = 0.25


@dataclass(frozen=True)
class Plan:
    """One structure: whole blocks that go, and the share of channels that stay in families of layers.

    Families that are not named keep all of their channels.
    """

    blocks: tuple[str, ...] = ()
    keep: tuple[tuple[str, float], ...] = ()

    @property
    def untouched(self) -> bool:
        """Whether nothing is changed."""
        return not self.blocks and not self.keep

    def to_json(self) -> dict[str, Any]:
        """The plan as plain data."""
        return {"blocks": list(self.blocks), "keep": dict(self.keep)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`."""
        return cls(tuple(data["blocks"]), tuple(data["keep"].items()))


@dataclass(frozen=True)
class Space:
    """The knobs: for each stage its blocks, the most dispensable first; for each group its families.

    `narrows` is for each family the largest share that, once rounded, leaves it narrower than it is; larger ones
    count as all of it. A family that is not named narrows at any share. `dispensable` are the blocks of all stages in
    order of how little their loss does.
    """

    stages: Mapping[str, tuple[str, ...]]
    groups: Mapping[str, tuple[str, ...]]
    narrows: Mapping[str, float] = field(default_factory=dict)
    dispensable: tuple[str, ...] = ()

    def plan(self, dropped: Mapping[str, int], kept: Mapping[str, float]) -> Plan:
        """The structure that drops so many blocks of each stage and keeps these shares of each group."""
        blocks = [name for stage, number in dropped.items() for name in self.stages[stage][:number]]
        keep = [
            (family, share)
            for group, share in kept.items()
            for family in self.groups[group]
            if share < 1 and share <= self.narrows.get(family, 1.0)
            if not any(family == block or family.startswith(f"{block}.") for block in blocks)
        ]
        return Plan(tuple(sorted(blocks)), tuple(sorted(keep)))

    def milder(self, plan: Plan) -> list[Plan]:
        """The structures that give one part of `plan` back: a block of a stage, or a step of a group's width."""
        keep = dict(plan.keep)
        dropped = {stage: len({*blocks} & {*plan.blocks}) for stage, blocks in self.stages.items()}
        kept = {
            group: min((keep[family] for family in families if family in keep), default=1.0)
            for group, families in self.groups.items()
        }
        fewer = [{**dropped, stage: number - 1} for stage, number in dropped.items() if number]
        wider = [{**kept, group: share + STEP} for group, share in kept.items() if share < 1]
        return [self.plan(drop, kept) for drop in fewer] + [self.plan(dropped, widths) for widths in wider]

    @property
    def empty(self) -> bool:
        """Whether the structure offers nothing to change."""
        return not self.stages and not self.groups


def by_loss(sensitivity: Mapping[str, float]) -> tuple[str, ...]:
    """Blocks in order of how little their loss does."""
    return tuple(sorted(sensitivity, key=lambda name: (sensitivity[name], name)))


def stages_of(sensitivity: Mapping[str, float]) -> dict[str, tuple[str, ...]]:
    """Blocks by the module that holds them, in order of how little their loss does."""
    stages: dict[str, list[str]] = defaultdict(list)
    for block in by_loss(sensitivity):
        stages[stage_of(block)].append(block)
    return {stage: tuple(blocks) for stage, blocks in sorted(stages.items())}


def stage_of(block: str) -> str:
    """The module that holds a block."""
    return block.rpartition(".")[0]


def groups_of(families: Sequence[Any]) -> dict[str, tuple[str, ...]]:
    """Families that share a width: those of the same part and size go together, small numbers of groups only.

    Neighbouring groups are joined until at most eight are left, so that a search of few trials can cover them.
    """
    alike: dict[tuple[Any, ...], list[Any]] = {}
    for family in families:
        alike.setdefault((family.residual, family.kind, family.size), []).append(family)
    merged = [list(members) for members in alike.values()]
    while len(merged) > LARGEST_NUMBER_OF_GROUPS:
        # Join the two neighbours (in the order of the network) that differ least in size and part.
        def distance(i: int) -> float:
            a, b = merged[i][0], merged[i + 1][0]
            return abs(math.log(a.size / b.size)) + 10 * (a.residual != b.residual)

        i = min(range(len(merged) - 1), key=distance)
        merged[i : i + 2] = [merged[i] + merged[i + 1]]
    return {members[0].name: tuple(family.name for family in members) for members in merged}
