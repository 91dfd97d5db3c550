"""How many ranks to keep: by the energy that stays in each layer, or by the cost that the whole may have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import torch
from torch import Tensor


class Cost(Enum):
    """What a share is a share of."""

    PARAMETERS = "parameters"
    MACS = "macs"


@dataclass(frozen=True)
class Energy:
    """Keep, in every layer and mode, the fewest ranks that hold this share of the squared singular values."""

    share: float = 0.9

    def __post_init__(self) -> None:
        _check_share(self, "energy")


@dataclass(frozen=True)
class Share:
    """Keep at most this share of the cost of all layers that are looked at, by one level of energy for them all.

    Layers that are nearly of low rank then give up more than those that are not.
    """

    share: float = 0.5
    of: Cost = Cost.PARAMETERS

    def __post_init__(self) -> None:
        _check_share(self, "share")


@dataclass(frozen=True)
class Vbmf:
    """Keep, in every layer and mode, the ranks that variational Bayes tells from noise (Nakajima et al., 2013)."""


def _check_share(rule: Energy | Share, what: str) -> None:
    if not (isinstance(rule.share, (int, float)) and 0.0 < rule.share <= 1.0):
        raise ValueError(
            f"{type(rule).__name__}: the {what} kept must be above 0 and at most 1, not {rule.share!r}"
        )


def rank_for(values: Tensor, energy: float, multiple: int = 1) -> int:
    """The fewest singular values (largest first) whose squares hold `energy` of the total; rounded up to `multiple`.

    At least one. Where rounding up passes their number, all of them.
    """
    squares = values.double().square()
    total = float(squares.sum())
    if total == 0.0:
        rank = 1
    else:
        # A hair of slack, so that energy 1 does not ask for singular values that are only rounding errors.
        reached = squares.cumsum(0) >= (energy - 1e-12) * total
        rank = int(torch.argmax(reached.int())) + 1 if bool(reached.any()) else len(values)
    return min(len(values), math.ceil(rank / multiple) * multiple)


def vbmf_rank(values: Tensor, long: int, multiple: int = 1) -> int:
    """How many of the singular values (largest first) of a matrix of `len(values)` by `long` ≥ that are not noise.

    The global analytic solution of empirical variational Bayesian matrix factorisation with the noise's variance
    estimated: Nakajima, Sugiyama, Babacan and Tomioka (2013), "Global analytic solution of fully-observed variational
    Bayesian matrix factorization", theorems 2 and 3 and corollary 1. At least one; rounded up to `multiple`.
    """
    squares = values.double().square().numpy()
    short, shape = len(squares), len(squares) / long
    total = float(squares.sum())
    if total <= 0.0 or short < 2:
        return 1
    edge = 2.5129 * math.sqrt(shape)  # approximation of the paper's τ, below equation 25
    threshold = (1 + edge) * (1 + shape / edge)
    most = min(math.ceil(short / (1 + shape)) - 1, short - 1)
    rest = squares[most:]
    low = max(float(squares[most]) / (long * threshold), float(rest.mean()) / long, 1e-12 * total)
    high = max(total / (short * long), low * (1 + 1e-9))

    def free_energy(variance: float) -> float:
        x = np.maximum(squares / (long * variance), 1e-300)
        signal, noise = x[x > threshold], x[x <= threshold]
        centred = signal - (1 + shape)
        tau = 0.5 * (centred + np.sqrt(np.maximum(centred**2 - 4 * shape, 0)))
        return float(
            (noise - np.log(noise)).sum()
            + (signal - tau).sum()
            + np.log((tau + 1) / signal).sum()
            + shape * np.log(tau / shape + 1).sum()
        )

    # The free energy jumps where a value crosses the threshold: a fine grid first, then the neighbourhood of its best.
    for _ in range(2):
        grid = np.geomspace(low, high, 400)
        best = int(np.argmin([free_energy(variance) for variance in grid]))
        low, high = float(grid[max(best - 1, 0)]), float(grid[min(best + 1, len(grid) - 1)])
    rank = int((squares > long * float(grid[best]) * threshold).sum())
    return min(short, math.ceil(max(rank, 1) / multiple) * multiple)


def energy_for_cost(cost_at: Callable[[float], float], most: float, steps: int = 40) -> float:
    """The largest energy whose cost is at most `most`, by bisection: the cost never falls as the energy grows.

    Where even the least energy costs more, the least.
    """
    if cost_at(1.0) <= most:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(steps):
        middle = (low + high) / 2
        if cost_at(middle) <= most:
            low = middle
        else:
            high = middle
    return low
