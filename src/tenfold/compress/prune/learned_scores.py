"""Movement pruning: scores that are learnt beside the weights say which weights stay (Sanh, Wolf and Rush, 2020).

They begin at the weights' magnitudes: the fewer steps, the nearer to pruning by magnitude.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.compress.healing import heal
from tenfold.compress.layers import Weighted, parametrized
from tenfold.compress.prune.masks import keep_largest
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.training import Batch, Objective

RAMP = 0.7  # of the steps raise the share of zeros; in the others the weights settle


class TopShare(torch.autograd.Function):
    """W ⊙ M, M keeping all but the share `ratio` of least score; the gradient of M reaches the scores unchanged.

    ∂L/∂S = ∂L/∂(W ⊙ M) ⊙ W: a score falls where the weight moves towards zero (eq. 3 of the paper).
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, scores: Tensor, ratio: float) -> Tensor:
        lost = round(ratio * scores.numel())
        # By the least score that stays, which is faster to find than an order; ties stay.
        mask = scores >= scores.flatten().kthvalue(min(lost + 1, scores.numel())).values
        ctx.save_for_backward(weight, mask)
        return weight * mask

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, mask = ctx.saved_tensors
        return gradients[0] * mask, gradients[0] * weight, None


class Scored(nn.Module):
    """A parametrisation of a weight by itself and its scores; `ratio` of it is at zero.

    Scores begin at the magnitudes, which a score then leaves by what it learns. From zero, as in the paper, they need
    its tens of thousands of steps: after 150 a ResNet-56 on Fashion-MNIST without half of each layer lost 15 points, more
    than with weights chosen at random.
    """

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.scores = nn.Parameter(weight.detach().abs().clone())
        self.ratio = 0.0

    def forward(self, weight: Tensor) -> Tensor:
        masked: Tensor = TopShare.apply(weight, self.scores, self.ratio)
        return masked


@contextmanager
def scored(model: nn.Module, layers: Mapping[str, Weighted]) -> Iterator[list[Scored]]:
    """Give these layers scores for a while; afterwards their weights are plain again, with zeros where M had them."""
    made = {name: Scored(layer.weight.detach()) for name, layer in layers.items()}
    try:
        with parametrized(model, layers, made):
            yield list(made.values())
    finally:
        for name, entry in made.items():
            # By order, not by value, so that ties go too and the share is exact.
            layers[name].weight.data.masked_fill_(~keep_largest(entry.scores.detach(), entry.ratio), 0.0)


class Growing:
    """An objective under which the share of zeros grows with every step, by `schedule` of the share of steps done."""

    def __init__(self, inner: Objective, scores: list[Scored], ratio: float, steps: int) -> None:
        self.inner, self.scores, self.ratio, self.steps, self.step = inner, scores, ratio, steps, 0
        self.views = inner.views

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        self.step += 1
        for entry in self.scores:
            entry.ratio = cubic(self.ratio, min(1.0, self.step / max(1, self.steps)))
        return self.inner(outputs, batch)

    def watching(self, student: nn.Module) -> AbstractContextManager[list[nn.Parameter]]:
        return self.inner.watching(student)


def cubic(ratio: float, done: float) -> float:
    """The share of zeros after the share `done` of the work: ratio·(1 − (1 − done)³).

    Zhu and Gupta (2017), "To prune, or not to prune", eq. 1 from zero: fast while much is redundant, slow at the end.
    """
    return ratio * (1 - (1 - done) ** 3)


def learn_which_go(
    model: nn.Module, layers: Mapping[str, Weighted], task: Task, run: Run, *, ratio: float, epochs: float
) -> None:
    """Train `model` in place for `epochs` passes; afterwards the share `ratio` of each layer's weights is zero."""
    with scored(model, layers) as scores:
        heal(
            model,
            task,
            run,
            epochs,
            wrap=lambda objective, steps: Growing(objective, scores, ratio, round(RAMP * steps)),
            keep_always=True,
            graph=False,  # which would hold the share of zeros as it is at the start
        )
        for entry in scores:
            entry.ratio = ratio  # whatever cut the training short
