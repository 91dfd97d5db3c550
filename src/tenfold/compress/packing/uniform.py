"""Uniform quantisation whose rounding weighs the error against the bits it costs.

Entropy-constrained scalar quantisation (Chou, Lookabaugh and Gray, 1989): each weight takes the integer q that has the
least (w − r_q)² + λ · bits(q), where bits(q) = −log2 p(q) under the integers' own histogram; histogram and points are
then made anew, until they stay. At high rates this leaves ½ log2(2πe / 12) = 0.2546 bit above the rate–distortion
bound, at low rates less, because zero takes more room than the others. λ = PRICE · step², the slope of that curve at
high rates: D = step² / 12 falls by 2 ln 2 · D for each bit.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tenfold.compress.packing.parts import parts

PRICE = 2 * np.log(2) / 12
ROUNDS = 12
SETTLED = 1e-4  # share of the integers that may still change when the rounds end
SHIFTED = 3  # the magnitudes 1, 2, and 3 or more have points of their own

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Uniform:
    """Where the integers lie: sign(q) · (|q| · step − shift[min(|q|, 3) − 1]), float32 arithmetic apart."""

    step: float
    shifts: tuple[float, float, float]

    def points(self, values: NDArray[np.int32]) -> NDArray[np.float32]:
        """The weights that integers stand for."""
        shifts = np.array([0.0, *self.shifts])
        magnitudes = np.abs(values)
        far = magnitudes * self.step - shifts[np.minimum(magnitudes, SHIFTED)]
        return (np.sign(values) * far).astype(np.float32)


def rounded(weights: Floats, step: float, limit: int) -> tuple[NDArray[np.int32], Uniform]:
    """The integers of `weights` (any shape), within ±limit, and where they lie."""
    flat = weights.reshape(-1)
    values = np.empty(len(flat), dtype=np.int32)
    for part in parts(len(flat)):
        values[part] = _nearest(flat[part], step, limit)
    for _ in range(ROUNDS):
        bits, grid, changed = _bits(values, limit), Uniform(step, _shifts(flat, values, step)), 0
        for part in parts(len(flat)):
            chosen = _chosen(flat[part], grid, bits, limit)
            changed += int(np.count_nonzero(chosen != values[part]))
            values[part] = chosen
        if changed <= SETTLED * len(flat):
            break
    return values.reshape(weights.shape), Uniform(step, _shifts(flat, values, step))


def _chosen(flat: Floats, grid: Uniform, bits: Floats, limit: int) -> NDArray[np.int32]:
    """For each weight the integer of the least error and price, `bits` those of −limit … limit."""
    nearest, price = _nearest(flat, grid.step, limit), PRICE * grid.step * grid.step
    best, chosen = np.full(len(flat), np.inf), nearest
    # A cheaper integer always lies towards zero; the centroids can make the next one out the nearest too.
    for move in (1, 0, -1, -2):
        candidate = np.where(np.abs(nearest) + move > 0, np.sign(nearest) * (np.abs(nearest) + move), 0)
        candidate = np.clip(candidate, -limit, limit).astype(np.int32)
        cost = (flat - grid.points(candidate)) ** 2 + price * bits[candidate + limit]
        better = cost < best
        chosen, best = np.where(better, candidate, chosen), np.where(better, cost, best)
    cost = (flat**2) + price * bits[limit]
    return np.where(cost < best, 0, chosen).astype(np.int32)


def _nearest(flat: Floats, step: float, limit: int) -> NDArray[np.int32]:
    return np.clip(np.rint(flat / step), -limit, limit).astype(np.int32)


def _bits(values: NDArray[np.int32], limit: int) -> Floats:
    """−log2 p of each integer −limit … limit, with half a count for those that did not come."""
    counts = np.bincount(values + limit, minlength=2 * limit + 1) + 0.5
    return np.log2(counts.sum()) - np.log2(counts)


def _shifts(flat: Floats, values: NDArray[np.int32], step: float) -> tuple[float, float, float]:
    """How far inside its place the centroid of each magnitude's weights lies, as float32 holds it."""
    magnitudes = np.abs(values)
    inside = magnitudes * step - np.sign(values) * flat
    found = []
    for magnitude in range(1, SHIFTED + 1):
        chosen = magnitudes == magnitude if magnitude < SHIFTED else magnitudes >= magnitude
        found.append(float(np.float32(inside[chosen].mean())) if chosen.any() else 0.0)
    return found[0], found[1], found[2]
