"""Optimal brain surgeon on the outputs of one layer: which weights go, and how the others make up for it.

Shapes: R rows (outputs), D weights of a row. All in float64. Source: Hassibi and Stork (1993), "Second order derivatives
for network pruning: Optimal Brain Surgeon"; by layers as in Frantar and Alistarh (2022), "Optimal Brain Compression".
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

DAMPING = (
    0.01  # of the mean diagonal, added to the diagonal, so that inputs seen together do not make it singular
)
CHUNK = 1 << 24  # numbers held at a time

Choose = Callable[[Tensor, int], Tensor]  # (scores (R, D), round) -> what stays after this round (R, D)


def damped_inverse(hessian_DD: Tensor, damping: float = DAMPING) -> Tensor:
    """The inverse of H + damping·mean(diag H)·I; of the identity where the inputs are all zero."""
    size = len(hessian_DD)
    mean = float(hessian_DD.diagonal().mean())
    if mean <= 0:
        return torch.eye(size, dtype=torch.float64)
    eye = torch.eye(size, dtype=torch.float64)
    return torch.cholesky_inverse(torch.linalg.cholesky(hessian_DD.double() + damping * mean * eye))


def surgeon(weight_RD: Tensor, inverse_DD: Tensor, choose: Choose, rounds: int) -> Tensor:
    """The rows after `rounds` of removal; what remains is always the best answer for what is gone.

    In each round `choose` is told what each weight's removal would cost, ½·w²/[H⁻¹]_qq for the rows as they are by
    then (infinite for those gone), and says what stays. With M gone, the rest is w − H⁻¹[:, M]·(H⁻¹[M, M])⁻¹·w[M] and
    the inverse that the next round reads is H⁻¹ − H⁻¹[:, M]·(H⁻¹[M, M])⁻¹·H⁻¹[M, :], both from one Cholesky factor.
    Removing one weight of each row a round is OBS as it was published; more a round only chooses less carefully.
    """
    size = weight_RD.shape[1]
    rows = max(1, CHUNK // (size * size))
    return torch.cat([_operated(part, inverse_DD, choose, rounds) for part in weight_RD.double().split(rows)])


def _operated(weight_RD: Tensor, inverse_DD: Tensor, choose: Choose, rounds: int) -> Tensor:
    diagonal = inverse_DD.diagonal()
    current, spread = weight_RD.clone(), diagonal.expand_as(weight_RD)
    kept = torch.ones_like(weight_RD, dtype=torch.bool)
    for step in range(rounds):
        cost = 0.5 * current.square() / spread.clamp_min(1e-300)
        kept &= choose(cost.masked_fill(~kept, torch.inf), step)
        current, spread = _without(weight_RD, inverse_DD, kept)
    return current


def _without(weight_RD: Tensor, inverse_DD: Tensor, kept_RD: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, diagonals of their inverses) where what is not kept is gone; every row loses equally many."""
    gone = (~kept_RD).nonzero()[:, 1].reshape(len(kept_RD), -1)  # (R, m)
    if gone.shape[1] == 0:
        return weight_RD.clone(), inverse_DD.diagonal().expand_as(weight_RD)
    across = inverse_DD[gone]  # (R, m, D)
    factor = torch.linalg.cholesky(across.gather(2, gone[:, None, :].expand(-1, gone.shape[1], -1)))
    across = torch.linalg.solve_triangular(factor, across, upper=False)
    lost = torch.linalg.solve_triangular(factor, weight_RD.gather(1, gone)[:, :, None], upper=False)
    rest = weight_RD - (lost * across).sum(1)
    spread = inverse_DD.diagonal() - across.square().sum(1)
    return rest.masked_fill(~kept_RD, 0.0), spread


def least_of_rows(ratio: float, rounds: int) -> Choose:
    """Every row loses the share `ratio` in equal rounds, cheapest first."""

    def choose(cost_RD: Tensor, step: int) -> Tensor:
        size = cost_RD.shape[1]
        before, after = (round(ratio * size * (step + i) / rounds) for i in (0, 1))
        order = cost_RD.argsort(dim=1, stable=True)
        kept = torch.ones_like(cost_RD, dtype=torch.bool)
        return kept.scatter_(1, order[:, : after - before], False)

    return choose


def two_of_four(inputs: int) -> Choose:
    """Of every four input channels in a row one goes in each of two rounds; D = inputs × kernel positions."""

    def choose(cost_RD: Tensor, step: int) -> Tensor:
        rows = len(cost_RD)
        grouped = cost_RD.reshape(rows, inputs // 4, 4, -1)
        cheapest = grouped.argmin(2, keepdim=True)
        return torch.ones_like(grouped, dtype=torch.bool).scatter_(2, cheapest, False).reshape(rows, -1)

    return choose
