"""Intervals for what was measured: proportions, paired drops, and any metric by the bootstrap. 95% unless told."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEW_RESAMPLES = 100  # below which the ends of an interval are not read off the draws


@dataclass(frozen=True)
class Interval:
    """An estimate with the two ends of its confidence interval, in the unit of the estimate."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The three numbers as plain JSON."""
        return asdict(self)

    def __str__(self) -> str:
        return f"{self.value:.4g} [{self.low:.4g}, {self.high:.4g}]"


def wilson_interval(successes: int, n: int, *, confidence: float = 0.95) -> Interval:
    """The interval of one proportion, `successes` out of `n` (Wilson 1927, equation for the score interval).

    Unlike the Wald interval it stays inside [0, 1] and has a width at 0 and at n successes.
    """
    if not 0 <= successes <= n or n < 1:
        raise ValueError(f"successes must be between 0 and n, and n at least 1; got {successes} of {n}")
    z = _z(confidence)
    share = successes / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    # At 0 and n successes the ends are 0 and 1 exactly; rounding must not put the estimate outside.
    return Interval(share, max(0.0, min(share, centre - half)), min(1.0, max(share, centre + half)))


def paired_difference_interval(
    correct_a: ArrayLike, correct_b: ArrayLike, *, confidence: float = 0.95
) -> Interval:
    """The interval of p(a) − p(b) where both networks answered the same n examples: (n,) booleans each.

    With a the original and b the candidate this is the drop in accuracy. Only the examples on which the two
    disagree matter. Laplace-adjusted Wald interval for paired proportions: Bonett & Price 2012, "Adjusted Wald
    confidence interval for a difference of binomial proportions based on paired data", J. Educational and
    Behavioral Statistics 37(4), 479–488: one pseudo-example is added to each of the two discordant counts.
    The value is the plain difference; the interval is centred on the adjusted one, a little nearer to 0.
    """
    a, b = np.asarray(correct_a).astype(bool).ravel(), np.asarray(correct_b).astype(bool).ravel()
    if a.shape != b.shape or a.size == 0:
        raise ValueError(f"both must answer the same examples, at least one; got {a.size} and {b.size}")
    n = a.size
    only_a, only_b = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    share_a, share_b = (only_a + 1) / (n + 2), (only_b + 1) / (n + 2)
    centre = share_a - share_b
    half = _z(confidence) * math.sqrt((share_a + share_b - centre**2) / (n + 2))
    return Interval((only_a - only_b) / n, max(-1.0, centre - half), min(1.0, centre + half))


def paired_bootstrap(
    metric: Callable[[Any, Any], float],
    outputs_a: Any,
    outputs_b: Any,
    targets: Any,
    *,
    resamples: int = 1000,
    draw: int | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The interval of metric(a) − metric(b) for any metric, both networks resampled on the same examples.

    `outputs_*` and `targets` are arrays or tensors whose first dimension is the example; `metric(outputs,
    targets)` is a float. Percentile bootstrap (Efron & Tibshirani 1993, chapter 13), each resample of `draw` examples
    as in `bootstrap_metric`. A resample on which the metric is not finite, or raises a ValueError (a class may be missing from
    it), is left out; a metric that fails so on more than half of them is an error.
    """
    n = len(targets)
    if not len(outputs_a) == len(outputs_b) == n or n == 0:
        raise ValueError(
            f"outputs and targets must have the same length: {len(outputs_a)}, {len(outputs_b)}, {n}"
        )
    name = getattr(metric, "__name__", "the metric")

    def difference(index: Any) -> float:
        chosen = targets[index]
        return float(metric(outputs_a[index], chosen)) - float(metric(outputs_b[index], chosen))

    return _resampled(difference, n, resamples, draw, seed, confidence, name)


def bootstrap_metric(
    metric: Callable[[Any, Any], float],
    outputs: Any,
    targets: Any,
    *,
    resamples: int = 1000,
    draw: int | None = None,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """The percentile bootstrap interval of metric(outputs, targets), arguments as in `paired_bootstrap`.

    Resamples of only `draw` = m of the n examples cost less; their deviations from the value are wider by √(n/m) and
    are narrowed by as much (Bickel, Götze and van Zwet, 1997, "Resampling fewer than n observations").
    """
    name = getattr(metric, "__name__", "the metric")
    return _resampled(
        lambda index: float(metric(outputs[index], targets[index])),
        len(targets), resamples, draw, seed, confidence, name,
    )  # fmt: skip


def bootstrap_mean(
    values: ArrayLike, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """The percentile bootstrap interval of the mean of `values` (n,)."""
    return _bootstrap(values, np.mean, resamples, seed, confidence)


def bootstrap_median(
    values: ArrayLike, *, resamples: int = 2000, seed: int = 0, confidence: float = 0.95
) -> Interval:
    """The percentile bootstrap interval of the median of `values` (n,)."""
    return _bootstrap(values, np.median, resamples, seed, confidence)


def spearman(a: Sequence[float] | NDArray[Any], b: Sequence[float] | NDArray[Any]) -> float:
    """Spearman's rank correlation of two series of equal length; tied values share their mean rank."""
    ranks_a, ranks_b = _ranks(np.asarray(a, dtype=float)), _ranks(np.asarray(b, dtype=float))
    if ranks_a.shape != ranks_b.shape or ranks_a.size < 2:
        raise ValueError("a rank correlation needs two series of equal length, at least 2")
    if np.ptp(ranks_a) == 0 or np.ptp(ranks_b) == 0:
        raise ValueError("a rank correlation is undefined where all values of a series are equal")
    return float(np.corrcoef(ranks_a, ranks_b)[0, 1])


def _ranks(values: NDArray[Any]) -> NDArray[Any]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return (last - (counts - 1) / 2)[inverse]


def _bootstrap(
    values: ArrayLike, statistic: Callable[..., Any], resamples: int, seed: int, confidence: float
) -> Interval:
    sample = np.asarray(values, dtype=float).ravel()
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError("a bootstrap needs at least one value, all of them finite")
    generator = np.random.default_rng(seed)
    # In blocks of about a million draws, so that a large sample does not ask for gigabytes.
    block = max(1, 1_000_000 // sample.size)
    draws = [
        statistic(
            sample[generator.integers(0, sample.size, (min(block, resamples - start), sample.size))], axis=1
        )
        for start in range(0, resamples, block)
    ]
    return _percentile(float(statistic(sample)), np.concatenate(draws), confidence)


def _resampled(
    statistic: Callable[[Any], float],
    n: int,
    resamples: int,
    draw: int | None,
    seed: int,
    confidence: float,
    name: str,
) -> Interval:
    """The interval of a statistic of the examples at an index (k,), from draws with replacement."""
    m = n if draw is None else min(draw, n)

    def defined(index: Any) -> float:
        try:
            return statistic(index)
        except ValueError:  # as metrics of some libraries say that a class is missing
            return math.nan

    value, generator = defined(np.arange(n)), np.random.default_rng(seed)
    found = np.asarray([defined(generator.integers(0, n, m)) for _ in range(resamples)])
    finite = found[np.isfinite(found)]
    if not math.isfinite(value) or finite.size < resamples / 2:
        raise ValueError(f"{name} is not finite on {resamples - finite.size} of {resamples} resamples")
    moved = value + math.sqrt(m / n) * (finite - value)
    if finite.size < FEW_RESAMPLES:  # too few for percentiles: the normal interval of their spread
        half = _z(confidence) * float(moved.std(ddof=1)) if finite.size > 1 else 0.0
        return Interval(value, value - half, value + half)
    return _percentile(value, moved, confidence)


def _percentile(value: float, draws: NDArray[Any], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return Interval(value, float(low), float(high))


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must lie between 0 and 1, not {confidence}")
    return NormalDist().inv_cdf((1 + confidence) / 2)
