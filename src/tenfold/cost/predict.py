"""Latency predicted from counts: a linear model of few coefficients, fitted to what has been measured so far.

    ms = overhead·operators + a·(dense MACs) + b·(depthwise MACs) + c·(bytes moved)

for each precision. The coefficients are multiples u of a prior for that precision, itself scaled to the
measurements; the fit minimises the relative error with a ridge towards u = 1 (a normal prior on u), under
u ≥ 0.02: so one observation is met exactly, many observations decide alone, and no operator is ever free.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tenfold.cost import record
from tenfold.cost.fusion import FusedOperator, fused
from tenfold.cost.record import Profile

Observation = tuple[Profile, str, float]

SMALLEST = 0.02  # of the scaled prior, for any coefficient
PRIOR_SPREAD = 0.7  # standard deviation of u around 1
NOISE = 0.05  # relative error of a measurement, for the weight of the ridge
# The relative error of the model expected before any residual is seen, and how many residuals that is worth.
EXPECTED_NOISE, EXPECTED_WORTH = 0.10, 4.0
# Spread (of the logarithm) of a precision's scale that was never measured, where another was and where none was.
UNSEEN_SPREAD, BLIND_SPREAD = 0.35, 0.5
KNOWN = 100.0  # degrees of freedom of a spread that is assumed and not estimated


@dataclass(frozen=True)
class Coefficients:
    """Milliseconds for an operator, a multiply-add and a byte, with the size of weights and activations.

    `weights` and `activations` scale the bytes of the profile, which was counted in the network's own type
    (normally fp32).
    """

    operator: float
    dense: float
    depthwise: float
    byte: float
    weights: float = 1.0
    activations: float = 1.0

    def vector(self) -> NDArray[np.float64]:
        """The four that are fitted: (operator, dense, depthwise, byte)."""
        return np.array([self.operator, self.dense, self.depthwise, self.byte])


# One thread of a server core under ONNX Runtime: about 40 G multiply-adds and 17 GB a second in fp32, a few
# microseconds an operator, depthwise products at a third of the rate. Only their proportions matter once
# anything has been measured.
PRIORS: dict[str, Coefficients] = {
    "fp32": Coefficients(4e-3, 2.4e-8, 8e-8, 6e-8),
    "fp16": Coefficients(4e-3, 1.6e-8, 6e-8, 6e-8, weights=0.5, activations=0.5),
    "bf16": Coefficients(4e-3, 1.6e-8, 6e-8, 6e-8, weights=0.5, activations=0.5),
    "int8": Coefficients(6e-3, 1.2e-8, 5e-8, 6e-8, weights=0.25, activations=0.25),
    "int8-dynamic": Coefficients(1.2e-2, 1.6e-8, 8e-8, 6e-8, weights=0.25, activations=1.5),
    "int4": Coefficients(6e-3, 1.6e-8, 6e-8, 6e-8, weights=0.14, activations=1.0),
}
ALIASES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "int8-static": "int8"}


@dataclass(frozen=True)
class Prediction:
    """A predicted latency in milliseconds with its 90% interval."""

    ms: float
    low: float
    high: float

    def to_json(self) -> dict[str, float]:
        """The three numbers as plain JSON."""
        return {"ms": self.ms, "low": self.low, "high": self.high}

    def __str__(self) -> str:
        return f"{self.ms:.3g} ms [{self.low:.3g}, {self.high:.3g}]"


@dataclass(frozen=True)
class OperatorPrediction:
    """The part of one operator (a fused group) in a prediction, and what binds it."""

    layer: str
    op: str
    ms: float
    bound: str  # "compute", "memory" or "overhead", whichever part is largest


@dataclass(frozen=True)
class _Fit:
    """The state of one precision: prior scaled by `scale`, multiples `u`, their covariance, and the noise."""

    scale: float
    u: NDArray[np.float64]
    covariance: NDArray[Any]
    noise: float
    freedom: float
    scale_spread: float  # of the logarithm of the scale


@dataclass(frozen=True)
class LatencyModel:
    """Predicts milliseconds from a `Profile` and a precision. `LatencyModel()` knows only the priors.

    `fit` returns a new model; fit again with all observations after each measurement. With `fuse=False` every
    operator of the profile counts on its own, as eager execution runs them.
    """

    priors: Mapping[str, Coefficients] = field(default_factory=lambda: PRIORS)
    fuse: bool = True
    observations: int = 0
    _fits: Mapping[str, _Fit] = field(default_factory=dict, repr=False)

    @classmethod
    def fit(
        cls,
        observations: Sequence[Observation],
        *,
        priors: Mapping[str, Coefficients] = PRIORS,
        fuse: bool = True,
    ) -> LatencyModel:
        """A model fitted to `(profile, precision, measured ms)`, of one device, runtime, batch and thread count."""
        rows: dict[str, list[NDArray[np.float64]]] = {}
        for profile, precision, ms in observations:
            if not (math.isfinite(ms) and ms > 0):
                raise ValueError(f"a measured latency must be finite and above 0, not {ms}")
            key = _precision(precision, priors)
            # The share of each part in the measured time, as the prior sees it.
            shares = _features(profile, priors[key], fuse) * priors[key].vector() / ms
            rows.setdefault(key, []).append(shares)
        fits = {key: _fit(np.array(shares)) for key, shares in rows.items()}
        return cls(priors, fuse, len(observations), fits)

    def predict(self, profile: Profile, precision: str = "fp32") -> Prediction:
        """The latency of a network counted in `profile`, with a 90% interval that is wide where little is known."""
        key = _precision(precision, self.priors)
        state = self._state(key)
        parts = _features(profile, self.priors[key], self.fuse) * self.priors[key].vector() * state.scale
        ms = float(parts @ state.u)
        if ms <= 0:
            raise ValueError(f"{profile.network} runs no operator: nothing to predict")
        weights = parts / ms
        variance = weights @ state.covariance @ weights + state.noise**2 + state.scale_spread**2
        spread = math.exp(min(_student(state.freedom) * math.sqrt(variance), 5.0))
        return Prediction(ms, ms / spread, ms * spread)

    def operators(self, profile: Profile, precision: str = "fp32") -> tuple[OperatorPrediction, ...]:
        """The prediction taken apart: one entry for each operator that runs; their sum is `predict(…).ms`."""
        key = _precision(precision, self.priors)
        state, prior = self._state(key), self.priors[key]
        coefficients = prior.vector() * state.scale * state.u
        found = []
        for group in _groups(profile, self.fuse):
            parts = _group_features(group, prior) * coefficients
            named = {"overhead": parts[0], "compute": parts[1] + parts[2], "memory": parts[3]}
            bound = max(named, key=lambda name: named[name])
            found.append(OperatorPrediction(group.layer, group.op, float(parts.sum()), bound))
        return tuple(found)

    def _state(self, key: str) -> _Fit:
        """The fit of a precision; of one never measured, its prior at the scale of those that were."""
        if key in self._fits:
            return self._fits[key]
        scales = [math.log(fit.scale) for fit in self._fits.values()]
        return _Fit(
            scale=math.exp(float(np.mean(scales))) if scales else 1.0,
            u=np.ones(4),
            covariance=PRIOR_SPREAD**2 * np.eye(4),
            noise=EXPECTED_NOISE,
            freedom=KNOWN,
            scale_spread=UNSEEN_SPREAD if scales else BLIND_SPREAD,
        )


def _fit(shares: NDArray[np.float64]) -> _Fit:
    """Fit u to rows (n, 4) of parts over measured time, which should sum to 1."""
    n = len(shares)
    scale = math.exp(float(np.mean(-np.log(shares.sum(axis=1)))))
    rows = shares * scale
    ridge = (NOISE / PRIOR_SPREAD) ** 2
    # u = SMALLEST + v with v ≥ 0; the ridge rows pull u towards 1.
    matrix = np.vstack([rows, math.sqrt(ridge) * np.eye(4)])
    target = np.concatenate([np.ones(n), math.sqrt(ridge) * np.ones(4)])
    u = SMALLEST + nonnegative_least_squares(matrix, target - SMALLEST * matrix.sum(axis=1))
    residuals = rows @ u - 1
    gram = rows.T @ rows
    eigenvalues = np.clip(np.linalg.eigvalsh(gram), 0, None)
    used = float(np.sum(eigenvalues / (eigenvalues + ridge)))  # effective number of fitted parameters
    freedom = EXPECTED_WORTH + max(0.0, n - used)
    noise = math.sqrt((EXPECTED_WORTH * EXPECTED_NOISE**2 + float(residuals @ residuals)) / freedom)
    covariance = np.linalg.inv(gram / noise**2 + np.eye(4) / PRIOR_SPREAD**2)
    return _Fit(scale, u, covariance, noise, freedom, 0.0)


def nonnegative_least_squares(matrix: NDArray[Any], target: NDArray[Any]) -> NDArray[np.float64]:
    """argmin ‖matrix·x − target‖² with x ≥ 0, exactly, by trying every set of columns: for up to about ten.

    The optimum is the unconstrained least-squares solution on its own support, so the best nonnegative one
    among all supports is it.
    """
    columns = matrix.shape[1]
    best, least = np.zeros(columns), float(target @ target)
    for size in range(1, columns + 1):
        for support in map(list, combinations(range(columns), size)):
            solution = np.linalg.lstsq(matrix[:, support], target, rcond=None)[0]
            if (solution < 0).any():
                continue
            loss = float(np.sum((matrix[:, support] @ solution - target) ** 2))
            if loss < least:
                best, least = np.zeros(columns), loss
                best[support] = solution
    return best


def _groups(profile: Profile, fuse: bool) -> tuple[FusedOperator, ...]:
    if fuse:
        return fused(profile.operators)
    return tuple(
        FusedOperator(
            op.layer, op.op, op.kind, op.macs, op.other_flops, op.weight_bytes,
            op.bytes_read - op.weight_bytes + op.bytes_written, 1,
        )
        for op in profile.operators
    )  # fmt: skip


def _features(profile: Profile, prior: Coefficients, fuse: bool) -> NDArray[np.float64]:
    return np.sum(
        [_group_features(group, prior) for group in _groups(profile, fuse)] or [np.zeros(4)], axis=0
    )


def _group_features(group: FusedOperator, prior: Coefficients) -> NDArray[np.float64]:
    """(operators, dense MACs, depthwise MACs, bytes) of one group at a precision."""
    depthwise = group.kind == record.DEPTHWISE
    moved = group.weight_bytes * prior.weights + group.activation_bytes * prior.activations
    return np.array([1.0, 0.0 if depthwise else group.macs, group.macs if depthwise else 0.0, moved])


def _precision(name: str, priors: Mapping[str, Coefficients]) -> str:
    key = ALIASES.get(name, name)
    if key not in priors:
        raise ValueError(f"no prior for precision {name!r}: use {', '.join([*priors, *ALIASES])}")
    return key


def _student(freedom: float) -> float:
    """The 95% quantile of Student's t, by its expansion around the normal quantile (Fisher & Cornish 1960)."""
    z = 1.6448536
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
