"""Stochastic depth: in training, a residual branch is dropped for each image by chance (Huang et al., 2016).

The chance rises linearly from the first branch to the last (equation 4); a branch that stays is scaled up by one over
its chance to stay, so that nothing changes when the network is evaluated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.errors import NetworkError
from tenfold.models.resnet_cifar import BasicBlock

# The last module of the residual branch, for blocks that cannot drop a branch themselves.
BRANCH_ENDS: dict[type[nn.Module], str] = {BasicBlock: "bn2"}
RATE = "drop_prob"  # the attribute by which modules that drop branches (timm's DropPath, for one) hold their chance


@contextmanager
def stochastic_depth(model: nn.Module, last: float) -> Iterator[None]:
    """While the context lasts, branches are dropped in training mode, the last one with chance `last`.

    Raises `NetworkError` where `last` is above 0 and the network has no branch that is known how to drop.
    """
    if last == 0:
        yield
        return
    own = [m for m in model.modules() if isinstance(getattr(m, RATE, None), (int, float))]
    ends = [
        block.get_submodule(end)
        for block in model.modules()
        for kind, end in BRANCH_ENDS.items()
        if isinstance(block, kind)
    ]
    if not own and not ends:
        raise NetworkError(
            f"stochastic_depth is {last}, but a {type(model).__name__} has no residual branch that can be dropped: "
            "set it to 0"
        )
    before = [getattr(m, RATE) for m in own]
    for index, module in enumerate(own):
        setattr(module, RATE, last * (index + 1) / len(own))
    handles = [
        end.register_forward_hook(_dropping(last * (index + 1) / len(ends))) for index, end in enumerate(ends)
    ]
    try:
        yield
    finally:
        for module, rate in zip(own, before, strict=True):
            setattr(module, RATE, rate)
        for handle in handles:
            handle.remove()


def dropped(branch: Tensor, rate: float) -> Tensor:
    """The branch (N, …), for each example 0 with chance `rate`, else scaled by 1 / (1 − rate)."""
    shape = (len(branch),) + (1,) * (branch.ndim - 1)
    kept = torch.rand(shape, device=branch.device) >= rate
    return branch * (kept.to(branch.dtype) / (1 - rate))


def _dropping(rate: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(module: nn.Module, args: Any, branch: Tensor) -> Tensor:
        return dropped(branch, rate) if module.training else branch

    return hook
