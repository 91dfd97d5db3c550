"""Which range of a weight's values its grid shall span: all of them, or less for finer steps."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from tenfold.compress.quantize.grid import Granularity, Grid, PerGroup, PerTensor, ZeroPoint, grid_of_ranges
from tenfold.compress.quantize.observe import TAIL, Observer, least_divergence_shares

SHARES = tuple(1.0 - 0.02 * step for step in range(36))  # of the whole range, from all of it to 30%
BINS = 512  # of a unit's histogram for ENTROPY


def fit_grid(
    matrix: Tensor,
    bits: int,
    granularity: Granularity,
    zero_point: ZeroPoint,
    observer: Observer,
    importance: Tensor | None = None,
) -> Grid:
    """The grid for `matrix` (R, K): each unit that has a scale of its own gets the range that `observer` chooses.

    `importance` (R, K) weighs the squared errors of MSE: clipping a weight costs most where its input is largest.
    """
    matrix = matrix.detach()
    units = units_of(matrix, granularity)
    shape = (-1, 1) if not isinstance(granularity, PerGroup) else (matrix.shape[0], -1)

    def grid(low: Tensor, high: Tensor) -> Grid:
        return grid_of_ranges(low.reshape(shape), high.reshape(shape), bits, zero_point, granularity)

    low = units.nan_to_num(nan=torch.inf).amin(1)
    high = units.nan_to_num(nan=-torch.inf).amax(1)
    if zero_point is ZeroPoint.SYMMETRIC:
        high = torch.maximum(-low, high).clamp(min=0)
        low = -high
    if observer is Observer.PERCENTILE:
        tails = torch.tensor([TAIL, 1 - TAIL], dtype=units.dtype, device=units.device)
        inner = _quantiles(units, tails)
        if zero_point is ZeroPoint.SYMMETRIC:
            high = inner.abs().amax(0)
            low = -high
        else:
            low, high = inner
    elif observer is Observer.MSE:
        weights = None if importance is None else units_of(importance, granularity)
        low, high = _least_error(units, weights, low, high, lambda a, b: _flat(grid(a, b), len(units)))
    elif observer is Observer.ENTROPY:
        share = least_divergence_shares(_histograms(units, low, high), low, high, 2**bits, SHARES)
        low, high = low * share, high * share
    return grid(low, high)


def units_of(matrix: Tensor, granularity: Granularity) -> Tensor:
    """The values that share a scale, a row each: (U, n), a shorter last group filled up with NaN."""
    if isinstance(granularity, PerTensor):
        return matrix.reshape(1, -1)
    if not isinstance(granularity, PerGroup):
        return matrix
    short = -matrix.shape[1] % granularity.size
    return torch.nn.functional.pad(matrix, (0, short), value=torch.nan).reshape(-1, granularity.size)


def _flat(grid: Grid, units: int) -> Grid:
    """The same grid with a row for each unit, to be used on `units_of` the matrix."""
    return Grid(grid.bits, grid.scale.reshape(units, 1), grid.zero_point.reshape(units, 1))


def _least_error(
    units: Tensor, weights: Tensor | None, low: Tensor, high: Tensor, grid: Callable[[Tensor, Tensor], Grid]
) -> tuple[Tensor, Tensor]:
    """The share of each unit's range (U,) whose rounding has the least squared error, by `weights` like units."""
    best = torch.full_like(low, torch.inf)
    share = torch.ones_like(low)
    for candidate in SHARES:
        points = grid(low * candidate, high * candidate)
        # Codes as floats: NaN, which fills short groups, has no integer.
        codes = torch.round(units / points.scale + points.zero_point).clamp_(0, points.top)
        squared = (points.scale * (codes - points.zero_point) - units).square_()
        error = (squared if weights is None else squared.mul_(weights)).nan_to_num_(nan=0.0).sum(1)
        share = torch.where(error < best, candidate, share)
        best = torch.minimum(error, best)
    return low * share, high * share


def _quantiles(units: Tensor, shares: Tensor) -> Tensor:
    """The values below which these shares of each unit lie, by the nearest rank: (2, U)."""
    ordered = units.sort(dim=1).values  # NaN comes last
    known = (~units.isnan()).sum(1)
    rank = (shares[:, None] * (known - 1)).round().long()
    return torch.stack([ordered.gather(1, each[:, None])[:, 0] for each in rank])


def _histograms(units: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """How many values of each unit lie in each of `BINS` parts of [low, high]: float64 (U, BINS)."""
    width = (high - low).clamp(min=1e-30)[:, None]
    place = ((units - low[:, None]) / width * BINS).nan_to_num(nan=0.0).long().clamp_(0, BINS - 1)
    counts = torch.zeros(len(units), BINS, dtype=torch.float64, device=units.device)
    return counts.scatter_add_(1, place, (~units.isnan()).double())
