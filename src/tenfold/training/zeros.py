"""Holding zeros: a weight that pruning set to zero stays zero while the others are trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def held_zeros(model: nn.Module, *originals: nn.Module) -> Iterator[list[str]]:
    """While it lasts, zeros of weights get no gradient; yields the names of the weights that have some.

    Every rule of `optimizers` leaves a weight of zero that never had a gradient at zero. Any exact zero counts as
    pruned, however few there are: training makes none by itself, and where a network was built with some, or a
    half-precision file rounded some to zero, the few weights that do not move are no loss. A weight of one dimension
    (a norm) is left alone, and so is one that is zero throughout (a branch that starts at zero), unless one of the
    `originals`, networks before pruning, has other values there.
    """
    before = [dict(original.named_parameters(remove_duplicate=False)) for original in originals]
    handles, names = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or parameter.dim() < 2:
            continue
        kept = parameter.detach() != 0
        plain = name.replace(".parametrizations.", ".").removesuffix(".original")
        emptied = any(plain in values and bool(values[plain].detach().any()) for values in before)
        if not bool(kept.all()) and (emptied or bool(kept.any())):
            handles.append(parameter.register_hook(lambda gradient, kept=kept: gradient * kept))
            names.append(name)
    try:
        yield names
    finally:
        for handle in handles:
            handle.remove()
