"""Holding zeros: a weight that pruning set to zero stays zero while the others are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

SPARSE_FROM = 0.2  # share of zeros from which a weight counts as pruned; training alone makes no exact zeros


@contextmanager
def held_zeros(model: nn.Module) -> Iterator[list[str]]:
    """While it lasts, zeros of pruned weights get no gradient; yields the names of those weights.

    Every rule of `optimizers` leaves a weight of zero that never had a gradient at zero. A weight that is zero
    throughout (a branch that starts at zero) or has one dimension (a norm) is not taken for a pruned one.
    """
    handles, names = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or parameter.dim() < 2 or parameter.numel() == 0:
            continue
        kept = parameter.detach() != 0
        if SPARSE_FROM <= 1 - float(kept.float().mean()) < 1:
            handles.append(parameter.register_hook(lambda gradient, kept=kept: gradient * kept))
            names.append(name)
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()
