"""How weights are rounded: to nearest, by GPTQ, or by learning; the choices of `QuantizeWeights` and what they do.

Every layer is rounded on the inputs that the rounded layers before it make, and judged by the output that the float
network has: min ‖W x − Ŵ x̂‖² over the examples. Where the layer's bias is corrected afterwards it makes up for the
means, and what is left to the weight are deviations from them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor

from tenfold.compress.quantize.gptq import damped, descended, gptq, inverse_factor, pruned
from tenfold.compress.quantize.grid import Grid
from tenfold.compress.quantize.moments import Moments, moments
from tenfold.compress.quantize.spans import Span, Unit, Values
from tenfold.compress.quantize.walk import Effort, Target, Walk

DAMPINGS = (0.01, 0.1, 1.0, 10.0)
MIDDLE = DAMPINGS[2]
POSITIONS = 2000  # of the input for each weight of an output, where there are so many
FEWEST = 32  # examples

# The grid of a layer's matrix, its errors weighed by the importance (R or 1, K) of each weight where it is given.
FitGrid = Callable[[Target, Tensor | None], Grid]


@dataclass(frozen=True)
class Nearest:
    """Each weight to the nearest point of its grid."""

    unit: ClassVar[Unit] = Unit.LAYER  # that is rounded at once
    effort: ClassVar[Effort] = Effort()


@dataclass(frozen=True)
class Gptq:
    """Each weight so that those after it make up for its error (`tenfold.compress.quantize.gptq`).

    `damping` is a share of the mean of the Hessian's diagonal; None takes for each layer that of `DAMPINGS` whose
    codes, found on one half of the examples, err least on the other: a classifier of 1,280 inputs seen a hundred
    times has too little of a Hessian to be trusted. `by_activation` begins with the most active inputs.
    """

    damping: float | None = None
    by_activation: bool = True

    unit: ClassVar[Unit] = Unit.LAYER
    # The weights' importance, each damping, following, and the codes themselves.
    effort: ClassVar[Effort] = Effort(factorings=len(DAMPINGS) + 3)

    def __post_init__(self) -> None:
        if self.damping is not None and not 0 < self.damping <= 100:
            raise ValueError(f"damping must be above 0 and at most 100, or None, not {self.damping!r}")


@dataclass(frozen=True)
class Learned:
    """Each weight up or down as gradient descent on the output of its layer or block finds best.

    AdaRound (Nagel et al., 2020) by LAYER, BRECQ (Li et al., 2021) by BLOCK; `tenfold.compress.quantize.learned`.
    `steps` of `batch_size` examples for each layer or block, fewer where the time does not suffice. What was learnt is
    kept where it answers examples that were held out better than GPTQ's codes do.
    """

    unit: Unit = Unit.BLOCK
    steps: int = 400
    batch_size: int = 16
    start: Nearest | Gptq = field(default_factory=Gptq)

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} must be a whole number of at least 1, not {value!r}")

    @property
    def effort(self) -> Effort:
        """That of the codes it begins with, and its own."""
        return Effort(self.start.effort.factorings, self.steps * self.batch_size)


Rounding = Nearest | Gptq | Learned


def round_to_nearest(
    walk: Walk, span: Span, targets: list[Target], exact: Values, fit: FitGrid, rounding: object = None
) -> None:
    """Store the nearest codes of every layer of the span."""
    for target in targets:
        grid = fit(target, None)
        walk.store(target, grid, grid.quantized(target.matrix))


def round_by_gptq(
    walk: Walk, span: Span, targets: list[Target], exact: Values, fit: FitGrid, rounding: Gptq
) -> None:
    """Store GPTQ's codes of every layer of the span, one after the other."""
    for target in targets:
        halves = [
            moments(target.layer, target.name, target.weight, walk.layer_inputs(span, target, half))
            for half in walk.examples[: enough(target)].tensor_split(2)
            if len(half)
        ]
        if walk.corrects(target):
            halves = [half.centred() for half in halves]
        grid, codes = codes_by_gptq(target.matrix, halves, lambda i, t=target: fit(t, i), rounding)  # type: ignore[misc]
        walk.store(target, grid, codes)


def enough(target: Target) -> int:
    """How many examples tell a layer's moments: fewer where each has many positions, as in a network's first layers."""
    return max(FEWEST, math.ceil(POSITIONS * target.matrix.shape[1] / target.places))


def codes_by_gptq(
    matrix: Tensor, halves: list[Moments], fit: Callable[[Tensor], Grid], rounding: Gptq
) -> tuple[Grid, Tensor]:
    """The grid and the codes (R, K) of a weight whose inputs have these moments on each half of the examples."""
    whole = sum(halves[1:], halves[0])
    damping = MIDDLE if rounding.damping is None else rounding.damping
    grid = fit(importance(whole.rounded, damping, len(matrix)))
    gone = pruned(matrix, grid)  # which stay at zero, whatever would follow the inputs better

    def codes(of: Moments, share: float, follow: bool) -> tuple[Tensor, Tensor]:
        """The weight that is rounded by these moments, and its codes."""
        towards = followed(matrix, of, share).masked_fill(gone, 0.0) if follow else matrix
        found = gptq(towards, of.rounded, grid, damping=share, by_activation=rounding.by_activation)
        return towards, found

    if len(halves) < 2:
        return grid, codes(whole, damping, False)[1]
    first, second = halves

    def error(found: Tensor) -> float:
        return second.error(matrix, grid.dequantized(found))

    shares = DAMPINGS if rounding.damping is None else (damping,)
    tried = {share: codes(first, share, False) for share in shares}
    errors = {share: error(found) for share, (_, found) in tried.items()}
    damping = min(errors, key=errors.__getitem__)
    # Each refinement only where what it learns on one half holds on the other.
    best, least = tried[damping], errors[damping]
    following = codes(first, damping, True)
    least_following = error(following[1])
    follow = least_following < least
    if follow:
        best, least = following, least_following
    again = error(descended(*best, first.rounded, grid, damping=damping)) < least
    towards, found = codes(whole, damping, follow)
    return grid, descended(towards, found, whole.rounded, grid, damping=damping) if again else found


def importance(hessian: Tensor, damping: float, rows: int) -> Tensor:
    """What an error of each weight costs once those after it have made up for it: (R, K), float32.

    GPTQ's whole error is Σ (w_i − q_i)² / U_ii², with U of `inverse_factor`.
    """
    weights = inverse_factor(hessian, damping).diagonal(dim1=1, dim2=2).square().reciprocal()
    weights = weights / weights.mean().clamp(min=1e-30)
    return weights.repeat_interleave(rows // len(weights), dim=0).float()


def followed(matrix: Tensor, of: Moments, damping: float) -> Tensor:
    """The weight that comes nearest to the float layer's output from the rounded network's inputs, float32 (R, K).

    The least squares of W x ≈ W* x̂: W* = W + W (Σ x x̂ᵀ − Σ x̂ x̂ᵀ) (Σ x̂ x̂ᵀ + δ)⁻¹, W itself where x̂ = x.
    """
    w_GRK = matrix.double().reshape(of.rounded.shape[0], -1, matrix.shape[1])
    shift = w_GRK @ (of.crossed - of.rounded)
    solved = torch.linalg.solve(damped(of.rounded, damping), shift.transpose(1, 2)).transpose(1, 2)
    return (w_GRK + solved).reshape(matrix.shape).float()
