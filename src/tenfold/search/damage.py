"""A guess at what a structure will cost in the metric after healing, good enough to order candidates by.

The healed loss of a narrowed network follows its capacity more than its first damage: over 16 structures of a
ResNet-56 healed alike (benchmarks/sample/healing_sweep.json) it was about 0.1 points for a unit of the damage
below, with a rank correlation of 0.96 on validation; the divergence before healing alone has 0.86. Finalists that
were healed and measured then say how much loss a unit of damage means for the network at hand.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

DIVERGENCE_WEIGHT = 0.25
# Few passes of healing do not bring back what moved far. Structures of a ResNet-56 on Fashion-MNIST lost, beyond what
# the rest of the formula says, nothing (0.9 nats, 6 passes), 1.4 points (1.8 nats, 8 passes) and 2.0 (2.2 nats, 5).
UNHEALED_WEIGHT = 25.0  # units of damage for a squared nat, over the passes
EXAMPLES = 10_000  # in such a pass: what those structures were healed on
DIVERGENCE_CAP = 4.0  # nats; beyond, the answers are as good as random and more of it says nothing
FIRST_GUESS = 0.001  # of the metric for a unit of damage, before anything was healed
# What the guess counts beside measurements, in squared units of damage: as much as one of two units. A measured
# drop is off by some 0.002, the guess by about half as much for every unit.
FIRST_GUESS_WEIGHT = 4.0
LEAST_SHARE = (
    0.5  # of the guess, below which no measurement brings the slope: one lucky finalist proves little
)


def damage(
    macs: float,
    params: float,
    original_macs: float,
    original_params: float,
    divergence: float,
    passes: float = math.inf,
) -> float:
    """Units of damage: ((halvings of MACs + halvings of parameters) / 2)² + ¼·d + 25·d²/passes, with d = min(divergence, 4 nats).

    `passes` over 10,000 examples are those that there is time to heal it for.
    """
    halvings = (
        math.log2(max(original_macs / max(macs, 1.0), 1.0))
        + math.log2(max(original_params / max(params, 1.0), 1.0))
    ) / 2
    moved = min(divergence, DIVERGENCE_CAP)
    return halvings**2 + DIVERGENCE_WEIGHT * moved + UNHEALED_WEIGHT * moved**2 / max(passes, 1.0)


def loss_per_damage(measured: Sequence[tuple[float, float]]) -> float:
    """The slope through the origin of the metric's drop over damage, from (damage, drop) of healed candidates."""
    top = FIRST_GUESS * FIRST_GUESS_WEIGHT + sum(drop * units for units, drop in measured)
    bottom = FIRST_GUESS_WEIGHT + sum(units * units for units, _ in measured)
    return max(top / bottom, LEAST_SHARE * FIRST_GUESS)
