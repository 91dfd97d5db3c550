"""Predictions held against measurements, network by network, beside two simpler ways to predict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tenfold.cost.device import Device
from tenfold.cost.device_prediction import predict_network, roofline_ms
from tenfold.cost.record import Profile
from tenfold.cost.statistics import spearman


@dataclass(frozen=True)
class Check:
    """One network at one batch, in milliseconds: measured twice, apart in time, and predicted three ways."""

    network: str
    batch: int
    measured_ms: float
    again_ms: float
    predicted_ms: float
    low_ms: float
    high_ms: float
    roofline_ms: float
    macs: int

    @property
    def truth_ms(self) -> float:
        """The geometric mean of the two measurements."""
        return float(np.sqrt(self.measured_ms * self.again_ms))

    @property
    def error(self) -> float:
        """Predicted over measured, less 1."""
        return self.predicted_ms / self.truth_ms - 1

    @property
    def held(self) -> bool:
        """Whether the interval holds what was measured."""
        return self.low_ms <= self.truth_ms <= self.high_ms


def checked(name: str, counted: Profile, batch: int, times: Sequence[float], device: Device) -> Check:
    """The row of one network; the device must be calibrated."""
    predicted = predict_network(counted, device)
    return Check(
        name, batch, times[0], times[1], predicted.ms, predicted.low_ms, predicted.high_ms,
        roofline_ms(counted, device), counted.macs,
    )  # fmt: skip


def summary(checks: Sequence[Check]) -> dict[str, Any]:
    """Mean error, rank correlation, coverage and width of the intervals; the machine's own; and the two baselines.

    The MACs-only baseline is the best line ms = a + b·MACs (in relative error) *through these very networks*, so it
    is flattered. A rank correlation is None where it is undefined: of one network, or where a way tells none from
    another. Raises `ValueError` for no check at all.
    """
    if not checks:
        raise ValueError("a summary needs at least one network that was predicted and measured")
    truth = np.array([check.truth_ms for check in checks])
    macs = np.array([float(check.macs) for check in checks])
    rows = np.stack([np.ones_like(macs), macs], axis=1) / truth[:, None]
    line = np.linalg.lstsq(rows, np.ones_like(truth), rcond=None)[0]
    ways = {
        "predicted": np.array([check.predicted_ms for check in checks]),
        "roofline": np.array([check.roofline_ms for check in checks]),
        "macs_only": np.maximum(line[0] + line[1] * macs, 1e-6),
    }
    again = np.array([check.again_ms / check.measured_ms for check in checks])
    return {
        "networks": len(checks),
        **{
            name: {
                "mape": float(np.mean(np.abs(values / truth - 1))),
                "median_error": float(np.median(np.abs(values / truth - 1))),
                "spearman": _correlation(values, truth),
            }
            for name, values in ways.items()
        },
        "coverage": float(np.mean([check.held for check in checks])),
        "interval_width": float(np.median([check.high_ms / check.predicted_ms for check in checks])),
        "repeat_error": float(np.mean(np.abs(again - 1))),
    }


def _correlation(values: np.ndarray, truth: np.ndarray) -> float | None:
    """The rank correlation, None where one of the series has no ranks to tell apart."""
    if np.ptp(values) == 0 or np.ptp(truth) == 0:
        return None
    return spearman(values, truth)


def row_json(check: Check) -> dict[str, Any]:
    """The row as plain JSON."""
    return {**asdict(check), "error": check.error, "held": check.held}
