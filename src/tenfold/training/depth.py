"""Stochastic depth in training: the residual branches of a network, and the chance by which each is dropped.

The chance rises linearly from the first branch to the last (Huang et al., 2016, section 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from tenfold.errors import NetworkError
from tenfold.models.resnet_cifar import BasicBlock
from tenfold.nn import StochasticDepth

# The last module of the residual branch, for blocks that have no module to drop it by.
BRANCH_ENDS: dict[type[nn.Module], str] = {BasicBlock: "bn2"}
TIMM_RATE = "drop_prob"  # the attribute by which timm's DropPath holds its chance


@contextmanager
def stochastic_depth(model: nn.Module, last: float) -> Iterator[None]:
    """While the context lasts, branches are dropped in training mode, the last one with chance `last`.

    With `last` 0 the network stays as it was built. Raises `NetworkError` where there is no branch to drop.
    """
    if last == 0:
        yield
        return
    own = [(module, attribute) for module in model.modules() if (attribute := _rate_of(module))]
    ends = [
        block.get_submodule(end)
        for block in model.modules()
        for kind, end in BRANCH_ENDS.items()
        if isinstance(block, kind)
    ]
    if not own and not ends:
        raise NetworkError(
            f"stochastic_depth is {last}, but this {type(model).__name__} has no residual branch that can be "
            "dropped: set it to 0"
        )
    before = [getattr(module, attribute) for module, attribute in own]
    for index, (module, attribute) in enumerate(own):
        setattr(module, attribute, last * (index + 1) / len(own))
    handles = [
        end.register_forward_hook(_dropping(last * (index + 1) / len(ends))) for index, end in enumerate(ends)
    ]
    try:
        yield
    finally:
        for (module, attribute), rate in zip(own, before, strict=True):
            setattr(module, attribute, rate)
        for handle in handles:
            handle.remove()


def _rate_of(module: nn.Module) -> str | None:
    """The attribute that holds a module's chance of dropping its input, if it is a module for that."""
    if isinstance(module, StochasticDepth):
        return "rate"
    return TIMM_RATE if isinstance(getattr(module, TIMM_RATE, None), (int, float)) else None


def _dropping(rate: float) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    drop = StochasticDepth(rate)

    def hook(module: nn.Module, args: Any, branch: Tensor) -> Tensor:
        return drop(branch) if module.training else branch

    return hook
