"""Structured pruning on a dependency graph."""

from tenfold.compress.prune.blocks import Bypass, block_sensitivity, drop_blocks, residual_blocks
from tenfold.compress.prune.graph import ChannelGraph, Family, Kept, Member
from tenfold.compress.prune.importance import Criterion, Scores, importance
from tenfold.compress.prune.narrowing import Narrowing
from tenfold.compress.prune.pruning import Prune, Scope, channel_graph

__all__ = [
    "Bypass",
    "ChannelGraph",
    "Criterion",
    "Family",
    "Kept",
    "Member",
    "Narrowing",
    "Prune",
    "Scope",
    "Scores",
    "block_sensitivity",
    "channel_graph",
    "drop_blocks",
    "importance",
    "residual_blocks",
]
