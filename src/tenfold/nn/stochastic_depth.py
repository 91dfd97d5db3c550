"""Stochastic depth: in training, a residual branch is left out of some examples (Huang et al., 2016)."""

from __future__ import annotations

from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Zero the branch of each example with probability `rate` in training, and divide the others by 1 − rate.

    Any shape with the batch first. In eval mode, or at rate 0, the identity.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"the rate of stochastic depth must be at least 0 and below 1, not {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((len(x),) + (1,) * (x.dim() - 1)).bernoulli_(keep)
        return x * mask / keep

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def depth_rates(last: float, blocks: int) -> list[float]:
    """The linear decay rule (section 3 of the paper): rate 0 at the first block, `last` at the last one."""
    return [last * index / max(blocks - 1, 1) for index in range(blocks)]
