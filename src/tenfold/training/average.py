"""The exponential moving average of a network's weights: what is scored and stored."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class WeightAverage:
    """A copy of the network in eval mode whose weights follow it: average ← d·average + (1 − d)·weights a step.

    Early on, d is at most (1 + step) / (10 + step), so that the random weights are soon forgotten. Statistics of norms
    are averaged like weights; counters are copied. Updates may be made every few steps: d is then raised to their
    number.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        pairs = list(zip(_tensors(self.model), _tensors(model), strict=True))
        self._floats = [(mine, its) for mine, its in pairs if mine.is_floating_point()]
        self._others = [(mine, its) for mine, its in pairs if not mine.is_floating_point()]

    @torch.no_grad()
    def update(self, step: int, steps: int = 1) -> None:
        """Follow the network, which has taken `steps` steps since the last time and `step` in all."""
        decay = min(self.decay, (1 + step) / (10 + step)) ** steps
        mine, its = [a for a, _ in self._floats], [b for _, b in self._floats]
        torch._foreach_lerp_(mine, its, 1 - decay)
        if self._others:
            torch._foreach_copy_([a for a, _ in self._others], [b for _, b in self._others])


def _tensors(model: nn.Module) -> list[Tensor]:
    return [tensor.detach() for tensor in model.state_dict(keep_vars=True).values()]
