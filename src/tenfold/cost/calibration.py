"""What calibration found out about a machine, with its own error on networks that it was not fitted on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.cost.kernel_laws import parameter_names
from tenfold.cost.kernel_model import Fitted
from tenfold.cost.kernel_terms import Reference
from tenfold.cost.statistics import spearman

LOADED = 0.08  # of the reference work's time: above this spread the machine is not quiet
COVERAGE = 0.9
BETA_STEPS = 2_000  # of the integral between two ranks
COVERAGE_Z = 1.6448536  # 90% of a normal distribution lies within so many standard deviations


@dataclass(frozen=True)
class UnseenError:
    """How predictions agreed with measurements on networks that the fit had not seen."""

    networks: int
    mape: float  # mean of |predicted − measured| / measured
    spearman: float
    spread: float  # standard deviation of log(predicted / measured), robust
    coverage: float  # share of measurements within the 90% interval


@dataclass(frozen=True)
class Noise:
    """How the same small piece of work varied while calibration ran: half its interquartile range, over its median.

    `repeated` samples were timed again because the machine was disturbed at the time.
    """

    spread: float
    repeated: int = 0

    @property
    def loaded(self) -> bool:
        """Whether something else was using the machine."""
        return self.spread > LOADED


@dataclass(frozen=True, eq=False)
class Calibration:
    """A fitted predictor: the roofs it is relative to, its parameters, and its error on what it had not seen."""

    reference: Reference
    fitted: Fitted
    unseen: UnseenError
    noise: Noise
    samples: int
    seconds: float
    environment: Mapping[str, Any]
    date: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return parameter_names(self.reference)

    @property
    def summary(self) -> str:
        """One line: the error on unseen networks, and whether the machine was quiet."""
        text = (
            f"{self.unseen.mape:.1%} mean error, rank correlation {self.unseen.spearman:.3f}, 90% interval held "
            f"{self.unseen.coverage:.0%}, on {self.unseen.networks} networks not fitted on; noise {self.noise.spread:.1%}"
        )
        return text + (" (the machine was busy: intervals are wider)" if self.noise.loaded else "")

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON: parameters by name, the covariance as its lower triangle."""
        lower = np.tril_indices(len(self.names))
        return {
            "reference": asdict(self.reference),
            "parameters": {
                name: _short(value, 6) for name, value in zip(self.names, self.fitted.parameters, strict=True)
            },
            "covariance": [_short(value, 4) for value in self.fitted.covariance[lower]],
            "residual": self.fitted.residual,
            "unseen": asdict(self.unseen),
            "noise": asdict(self.noise),
            "samples": self.samples,
            "seconds": self.seconds,
            "environment": dict(self.environment),
            "date": self.date,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """The inverse of `to_json`; `ValueError` where a parameter is missing, unknown or not a number."""
        reference = Reference(**data["reference"])
        names = parameter_names(reference)
        given = data["parameters"]
        if set(given) != set(names):
            odd = sorted(set(given) ^ set(names))[0]
            raise ValueError(f"the parameter {odd} is not as this release has it")
        size = len(names)
        lower = np.tril_indices(size)
        values = np.array(data["covariance"], dtype=np.float64)
        if values.shape != lower[0].shape:
            raise ValueError(f"the covariance has {values.size} numbers and not {lower[0].size}")
        covariance = np.zeros((size, size))
        covariance[lower] = values
        covariance = covariance + np.tril(covariance, -1).T
        parameters = np.array([given[name] for name in names], dtype=np.float64)
        if not (np.isfinite(parameters).all() and np.isfinite(values).all()):
            raise ValueError("a parameter is not a finite number")
        return cls(
            reference=reference,
            fitted=Fitted(parameters, covariance, float(data["residual"])),
            unseen=UnseenError(**data["unseen"]),
            noise=Noise(**data["noise"]),
            samples=int(data["samples"]),
            seconds=float(data["seconds"]),
            environment=dict(data["environment"]),
            date=str(data["date"]),
        )


def unseen_error(
    predicted: Sequence[float] | NDArray[Any],
    measured: Sequence[float] | NDArray[Any],
    spreads: Sequence[float] | NDArray[Any],
) -> UnseenError:
    """The error of predictions, each with the standard deviation of its logarithm, against measurements."""
    p, m, s = (np.asarray(values, dtype=np.float64) for values in (predicted, measured, spreads))
    logs = np.log(p / m)
    centred = np.abs(logs - np.median(logs))
    spread = float(max(1.4826 * np.median(centred), 0.7 * np.std(logs)))
    inside = np.abs(logs) <= COVERAGE_Z * s
    return UnseenError(
        networks=len(p),
        mape=float(np.mean(np.abs(p - m) / m)),
        spearman=float(spearman(p, m)) if len(p) > 1 else math.nan,
        spread=spread,
        coverage=float(inside.mean()),
    )


def conformal_spread(errors: NDArray[Any], widths: NDArray[Any]) -> float:
    """The standard deviation to add to each of `widths` so that the 90% interval holds 90% of `errors` like these
    (absolute, of the logarithm).

    Split conformal prediction (Vovk, Gammerman & Shafer 2005) takes the rank ⌈0.9·(n + 1)⌉ of what each error asks
    for, which holds as many whatever their distribution, and jumps from error to error where there are a few dozen.
    So the quantile 0.9·(n + 1)/n is smoothed, which holds about as many (`smooth_quantile`); of up to 18 errors that
    rank is the last, and is taken.
    """
    asked = np.sqrt(np.maximum((errors / COVERAGE_Z) ** 2 - widths**2, 0.0))
    n = len(asked)
    if math.ceil(COVERAGE * (n + 1)) >= n:
        return float(asked.max())
    return smooth_quantile(asked, COVERAGE * (n + 1) / n)


def smooth_quantile(values: NDArray[Any], share: float) -> float:
    """The mean of all order statistics, weighted by how likely each is to be the quantile: Harrell & Davis (1982), "A
    new distribution-free quantile estimator", Biometrika 69. `share` is at most n/(n + 1) of n values.
    """
    n = len(values)
    a, b = (n + 1) * share, (n + 1) * (1 - share)
    if b < 1 - 1e-9 or a < 1 - 1e-9:
        raise ValueError(f"the quantile {share:g} of {n} values lies beyond them")
    # The weight of rank i is what Beta(a, b) has between (i - 1)/n and i/n, by the midpoint rule.
    middles = (np.arange(n * BETA_STEPS) + 0.5) / (n * BETA_STEPS)
    logs = (a - 1) * np.log(middles) + (b - 1) * np.log1p(-middles)
    density = np.exp(logs - logs.max()).reshape(n, BETA_STEPS).sum(axis=1)
    return float(np.sort(values) @ (density / density.sum()))


def _short(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")
