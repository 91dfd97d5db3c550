"""Pruning: whole channels, heads, units and blocks on a dependency graph, and single weights."""

from tenfold.compress.prune.blocks import Bypass, block_sensitivity, drop_blocks, residual_blocks
from tenfold.compress.prune.graph import ChannelGraph, Family, Kept, Member
from tenfold.compress.prune.importance import Criterion, Scores, importance
from tenfold.compress.prune.narrowing import Narrowing
from tenfold.compress.prune.pruning import Prune, Scope, channel_graph
from tenfold.compress.prune.sparsify import Free, Saliency, Sparsify, TwoOfFour
from tenfold.compress.prune.tickets import Kind, Ticket, lottery

__all__ = [
    "Bypass",
    "ChannelGraph",
    "Criterion",
    "Family",
    "Free",
    "Kept",
    "Kind",
    "Member",
    "Narrowing",
    "Prune",
    "Saliency",
    "Scope",
    "Scores",
    "Sparsify",
    "Ticket",
    "TwoOfFour",
    "block_sensitivity",
    "channel_graph",
    "drop_blocks",
    "importance",
    "lottery",
    "residual_blocks",
]
