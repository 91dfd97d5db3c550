"""Stochastic depth: in training, a block's branch is left out for some examples."""

from __future__ import annotations

from torch import Tensor, nn


class StochasticDepth(nn.Module):
    """Zero the branch (N, …) of each example with probability `rate` in training, and scale the others up.

    Huang et al., 2016, Deep Networks with Stochastic Depth, arXiv:1603.09382; the survivors are divided by
    1 − rate, so that nothing is left to do in inference, where this is the identity and costs nothing.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"the rate of stochastic depth must be at least 0 and below 1, not {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.dim() - 1)).bernoulli_(1 - self.rate)
        return x * kept.div_(1 - self.rate)

    def extra_repr(self) -> str:
        return f"rate={self.rate}"


def depth_rates(last: float, blocks: int) -> list[float]:
    """The linear decay rule (section 3 of the paper), from 0 at the first block to `last` at the last one."""
    return [last * index / max(blocks - 1, 1) for index in range(blocks)]
