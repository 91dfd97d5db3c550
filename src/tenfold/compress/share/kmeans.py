"""k-means: the best few values to stand for many numbers, and the best few vectors for many vectors.

Shapes: N points, D coordinates, K centroids. In float64; weights of points (N,) say how much each matters.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

GROUPS = 1024  # points that the exact solution looks at; more are first gathered into so many groups
ITERATIONS = 100
TOLERANCE = 1e-9  # relative gain of a round below which Lloyd's rounds have settled
CHUNK = 1 << 22  # distances held at a time


def kmeans(
    points_ND: Tensor, number: int, *, weights_N: Tensor | None = None, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """(centroids (K, D), codes (N,)) with a small Σ weight·‖point − its centroid‖²; K ≤ `number`.

    Numbers (D = 1) are clustered exactly where they are at most `GROUPS` different ones, by dynamic programming over
    their order (Wang and Song, 2011, "Ckmeans.1d.dp"); more numbers start from the exact answer for `GROUPS` groups
    of neighbours. Vectors start from k-means++ (Arthur and Vassilvitskii, 2007). Lloyd's rounds follow; they never
    make it worse.
    """
    points = points_ND.detach().double()
    weights = torch.ones(len(points), dtype=torch.float64) if weights_N is None else weights_N.double()
    distinct = torch.unique(points, dim=0)
    if len(distinct) <= number:
        return distinct, nearest_centroid(points, distinct)
    if points.shape[1] == 1:
        start = best_values(points[:, 0].numpy(), weights.numpy(), number)
        centroids = torch.from_numpy(start)[:, None]
    else:
        centroids = _spread(points, weights, number, seed)
    return lloyd(points, weights, centroids)


def lloyd(points_ND: Tensor, weights_N: Tensor, centroids_KD: Tensor) -> tuple[Tensor, Tensor]:
    """Lloyd's rounds (1982) from these centroids until they settle. A centroid that loses all points stays."""
    centroids, before = centroids_KD.clone(), float("inf")
    for _ in range(ITERATIONS):
        codes = nearest_centroid(points_ND, centroids)
        cost = error(points_ND, weights_N, centroids, codes)
        if before - cost <= TOLERANCE * cost:
            break
        before = cost
        centroids = means(points_ND, weights_N, centroids, codes)
    return centroids, codes


def means(points_ND: Tensor, weights_N: Tensor, centroids_KD: Tensor, codes_N: Tensor) -> Tensor:
    """The weighted mean of each centroid's points; an empty one as it was."""
    mass = torch.zeros(len(centroids_KD), dtype=torch.float64).index_add_(0, codes_N, weights_N)
    total = torch.zeros_like(centroids_KD).index_add_(0, codes_N, points_ND * weights_N[:, None])
    return torch.where(mass[:, None] > 0, total / mass.clamp_min(1e-300)[:, None], centroids_KD)


def nearest_centroid(points_ND: Tensor, centroids_KD: Tensor) -> Tensor:
    """The place (N,) of the centroid nearest to each point."""
    rows = max(1, CHUNK // len(centroids_KD))
    return torch.cat([torch.cdist(part, centroids_KD).argmin(1) for part in points_ND.split(rows)])


def error(points_ND: Tensor, weights_N: Tensor, centroids_KD: Tensor, codes_N: Tensor) -> float:
    """Σ weight·‖point − its centroid‖²."""
    return float(((points_ND - centroids_KD[codes_N]).square().sum(1) * weights_N).sum())


def best_values(
    values: NDArray[np.float64], weights: NDArray[np.float64], number: int
) -> NDArray[np.float64]:
    """The `number` values of least Σ weight·(value − nearest)², in order: exact for up to `GROUPS` different ones.

    In one dimension the best clusters are intervals, so the best split of the first j groups into k intervals
    follows from that of fewer: cost[k, j] = min over i of cost[k−1, i] + spread(i, j).
    """
    position, mass, moment, square = _gathered(values, weights)
    m = len(position)
    zero = np.zeros(1)
    mass_to, moment_to, square_to = (np.concatenate([zero, np.cumsum(a)]) for a in (mass, moment, square))
    # spread[i, j]: Σ weight·(value − mean)² of groups i … j−1, from running sums.
    held = np.maximum(mass_to[None, :] - mass_to[:, None], 1e-300)
    spread = (square_to[None, :] - square_to[:, None]) - (moment_to[None, :] - moment_to[:, None]) ** 2 / held
    spread = np.where(np.tri(m + 1, dtype=bool, k=-1), np.inf, np.maximum(spread, 0.0))
    cost, cuts = spread[0], []
    for _ in range(1, number):
        through = cost[:, None] + spread
        cuts.append(through.argmin(0))
        cost = through.min(0)
    edges = [m]
    for cut in reversed(cuts):
        edges.append(int(cut[edges[-1]]))
    edges = sorted({0, *edges})
    found = [(moment_to[b] - moment_to[a]) / max(mass_to[b] - mass_to[a], 1e-300) for a, b in pairwise(edges)]
    return np.array(found)


def _gathered(values: NDArray[np.float64], weights: NDArray[np.float64]) -> tuple[NDArray[Any], ...]:
    """(mean, Σ weight, Σ weight·value, Σ weight·value²) of the different values, or of groups of neighbours."""
    different, place = np.unique(values, return_inverse=True)
    if len(different) > GROUPS:
        # Half of the groups by rank, half by range, so that rare large values keep groups of their own.
        by_rank = np.quantile(values, np.linspace(0, 1, GROUPS // 2 + 1)[1:-1])
        by_range = np.linspace(values.min(), values.max(), GROUPS // 2 + 1)[1:-1]
        edges = np.unique(np.concatenate([by_rank, by_range]))
        place = np.unique(np.searchsorted(edges, values), return_inverse=True)[1]
    count = int(place.max()) + 1
    mass = np.bincount(place, weights, count)
    moment = np.bincount(place, weights * values, count)
    square = np.bincount(place, weights * values**2, count)
    return moment / np.maximum(mass, 1e-300), mass, moment, square


def _spread(points: Tensor, weights: Tensor, number: int, seed: int) -> Tensor:
    """k-means++: each next centroid a point drawn by its weighted squared distance from those chosen."""
    generator = torch.Generator().manual_seed(seed)
    chosen = [int(torch.multinomial(weights.clamp_min(1e-300), 1, generator=generator))]
    away = (points - points[chosen[0]]).square().sum(1)
    for _ in range(number - 1):
        chance = away * weights
        if float(chance.sum()) <= 0:
            break
        chosen.append(_drawn(chance, generator))
        away = torch.minimum(away, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen].clone()


def _drawn(chance: Tensor, generator: torch.Generator) -> int:
    """A place drawn by `chance`, of any number of places (torch.multinomial takes at most 2²⁴)."""
    steps = chance.cumsum(0)
    mark = torch.rand((), generator=generator, dtype=torch.float64) * steps[-1]
    return min(int(torch.searchsorted(steps, mark)), len(chance) - 1)
