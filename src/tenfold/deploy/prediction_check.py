"""Predictions held against measurements, network by network, beside two simpler ways to predict."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tenfold.cost import Device, Profile, measure, predict_network, roofline_ms, spearman
from tenfold.deploy.artifact import Runner
from tenfold.deploy.onnx_export import export_onnx
from tenfold.deploy.runners import EagerRunner, OnnxRunner


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


def runner_of(model: nn.Module, inputs: torch.Tensor, device: Device) -> Runner:
    """The network as the device's runtime runs it."""
    if device.runtime == "torch":
        return EagerRunner(model, device.threads)
    with tempfile.TemporaryDirectory(prefix="tenfold-bench-") as folder:
        path = Path(folder, "network.onnx")
        export_onnx(model, inputs, path)
        return OnnxRunner(path, device.threads)


def measure_twice(
    runners: dict[str, Runner], inputs: dict[str, torch.Tensor], seconds: float
) -> dict[str, list[float]]:
    """The median milliseconds of each, in two passes over all: what lies between shows what the machine does."""
    found: dict[str, list[float]] = {name: [] for name in runners}
    for order in (list(runners), list(runners)[::-1]):
        for name in order:
            call = partial(runners[name], inputs[name])
            timing = measure({name: call}, seconds=seconds, min_runs=5)
            found[name].append(timing[name].median_ms)
    return found


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
    is flattered.
    """
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
                "spearman": float(spearman(values, truth)) if len(checks) > 1 else None,
            }
            for name, values in ways.items()
        },
        "coverage": float(np.mean([check.held for check in checks])),
        "interval_width": float(np.median([check.high_ms / check.predicted_ms for check in checks])),
        "repeat_error": float(np.mean(np.abs(again - 1))),
    }


def row_json(check: Check) -> dict[str, Any]:
    """The row as plain JSON."""
    return {**asdict(check), "error": check.error, "held": check.held}
