"""How many ranks to keep: by the energy that stays in each layer, or by the cost that the whole may have."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

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


def energy_for_cost(cost_at: Callable[[float], float], most: float, steps: int = 40) -> float:
    """The largest energy whose cost is at most `most`, by bisection: the cost never falls as the energy grows.

    Where even the least energy costs more, the least: the caller sees it by the cost.
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
