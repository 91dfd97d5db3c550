"""Which parameters act on one token: in a mixture of experts, only those of the experts that its router chooses.

A bank of experts is a child named `experts` (or one whose name ends so): a list of modules of equal size, or one
module whose own parameters have the experts as their first dimension. How many of them act on a token is read from an
attribute of the bank, of the module that holds it, of that module's other children (the router) or of their
configuration, under one of the names in `CHOSEN`. A bank without such a number counts as active in full.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

CHOSEN = (
    "top_k",
    "topk",
    "num_experts_per_tok",
    "num_experts_per_token",
    "experts_per_token",
    "num_selected_experts",
    "moe_topk",
    "moe_top_k",
)


def active_params(model: nn.Module, params: int) -> int:
    """Of the network's `params`, those that act on one token."""
    seen: set[int] = set()
    idle = 0
    for parent, bank in _banks(model):
        chosen = _chosen(model, parent, bank)
        if id(bank) in seen or chosen is None:
            continue
        seen.add(id(bank))
        for expert_params, experts in _experts(bank):
            idle += max(0, experts - chosen) * expert_params
    return params - idle


def _banks(model: nn.Module) -> Iterator[tuple[nn.Module, nn.Module]]:
    """Every bank of experts with the module that holds it; a bank within a bank is a part of it."""
    for parent in model.modules():
        for name, child in parent.named_children():
            if name.endswith("experts") and not name.startswith("shared"):
                yield parent, child


def _experts(bank: nn.Module) -> list[tuple[int, int]]:
    """(parameters of one expert, how many experts) for each kind of parameter in the bank."""
    children = list(bank.children())
    if isinstance(bank, nn.ModuleList | nn.ModuleDict):
        sizes = {sum(parameter.numel() for parameter in child.parameters()) for child in children}
        return [(sizes.pop(), len(children))] if len(sizes) == 1 else []
    count = getattr(bank, "num_experts", None)
    own = list(bank.parameters(recurse=False))
    if not isinstance(count, int):
        count = own[0].shape[0] if own and len({parameter.shape[0] for parameter in own}) == 1 else 0
    return [(p.numel() // count, count) for p in own if count and p.dim() > 1 and p.shape[0] == count]


def _chosen(model: nn.Module, parent: nn.Module, bank: nn.Module) -> int | None:
    places: list[Any] = [bank, parent, *parent.children()]
    places += [getattr(place, "config", None) for place in (*places, model)]
    for place in places:
        for name in CHOSEN:
            value = getattr(place, name, None)
            if isinstance(value, int) and value > 0:
                return value
    return None
