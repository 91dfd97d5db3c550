"""Masks: which weights stay. True stays; scores say how much a weight matters, larger more."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

N, M = 2, 4  # NVIDIA's pattern: of every four weights in a row, two stay


def keep_largest(scores: Tensor, ratio: float) -> Tensor:
    """All but the share `ratio` of least score; ties go by place, so that the share is exact."""
    lost = round(ratio * scores.numel())
    kept = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    kept[scores.flatten().argsort(dim=0, stable=True)[:lost]] = False
    return kept.reshape(scores.shape)


def keep_largest_of_all(scores: Mapping[str, Tensor], ratio: float) -> dict[str, Tensor]:
    """The same where all tensors compete."""
    flat = torch.cat([value.flatten() for value in scores.values()])
    kept = keep_largest(flat, ratio).split([value.numel() for value in scores.values()])
    return {name: part.reshape(scores[name].shape) for name, part in zip(scores, kept, strict=True)}


def groups_of_four(weight: Tensor) -> Tensor:
    """A weight (O, I, K…) as (rows, I/4, 4): four input channels in a row, for each output and kernel position."""
    return weight.movedim(1, -1).reshape(-1, weight.shape[1] // M, M)


def keep_two_of_four(scores: Tensor) -> Tensor:
    """The two largest of every four input channels in a row; scores (O, I, K…) with I divisible by four.

    The layout that sparse tensor cores take for a linear layer, and for a convolution with channels last.
    """
    grouped = groups_of_four(scores)
    kept = torch.zeros_like(grouped, dtype=torch.bool)
    kept.scatter_(-1, grouped.argsort(dim=-1, descending=True, stable=True)[..., :N], True)
    moved = scores.movedim(1, -1).shape
    return kept.reshape(moved).movedim(-1, 1)


def sparsity(tensors: Mapping[str, Tensor]) -> float:
    """The share of zeros in all tensors together."""
    total = sum(value.numel() for value in tensors.values())
    return sum(int((value == 0).sum()) for value in tensors.values()) / max(total, 1)
