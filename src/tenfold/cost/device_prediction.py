"""The latency of a counted network on a device: for each kernel with a named bound, and in all with an interval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from tenfold.cost.arithmetic import is_of_integers
from tenfold.cost.calibration import COVERAGE_Z, Calibration
from tenfold.cost.device import Device
from tenfold.cost.kernel_laws import network_terms
from tenfold.cost.kernel_model import kernel_seconds, log_gradient, totals
from tenfold.cost.launches import kernels_of
from tenfold.cost.predict import Prediction
from tenfold.cost.record import Profile
from tenfold.cost.roofline import COMPUTE, MEMORY, OVERHEAD, Machine, bound_of, level_of, roofline_parts
from tenfold.cost.workload import Kernel
from tenfold.errors import DeviceError

FUSED = "fused"  # the bound of a layer that runs within another's kernel, or is folded away
ROOFLINE_SLACK = (
    4.0  # what an uncalibrated network may take, in multiples of its roofline, which it cannot beat
)
DTYPES = {1: "int8", 2: "fp16", 4: "fp32", 8: "fp64"}
ITEMSIZES = {"fp32": 4, "fp16": 2, "bf16": 2}
CALIBRATED, ROOFLINE = "calibrated", "roofline"


@dataclass(frozen=True)
class KernelTime:
    """One kernel of a prediction: its milliseconds, which part of them is largest, and the parts."""

    kernel: Kernel
    ms: float
    bound: str  # "compute", "memory" or "overhead"
    parts_ms: dict[str, float]


@dataclass(frozen=True)
class NetworkPrediction:
    """The predicted latency of one call, with its 90% interval, taken apart into kernels.

    `kernels` and `call_ms` (what a call costs however small the network) sum to `ms`. `how` is "calibrated", or
    "roofline" for a machine that is known by its roofs alone: then `ms` is a limit that no run beats, and
    `high_ms` a convention.
    """

    ms: float
    low_ms: float
    high_ms: float
    bound: str
    how: str
    call_ms: float
    kernels: tuple[KernelTime, ...]

    @property
    def prediction(self) -> Prediction:
        """The total and its interval."""
        return Prediction(self.ms, self.low_ms, self.high_ms)

    def to_json(self) -> dict[str, Any]:
        """The total as plain JSON."""
        return {"ms": self.ms, "low": self.low_ms, "high": self.high_ms, "bound": self.bound, "how": self.how}

    def __str__(self) -> str:
        return f"{self.prediction}, bound by {self.bound} ({self.how})"


def is_predictable(profile: Profile) -> bool:
    """Whether the network is float throughout: what is known of a device are its float kernels.

    A runtime computes a quantised network by integer kernels, and the operators that stand for them in PyTorch, which
    the profile counts, by none at all.
    """
    return not any(is_of_integers(operator.op) for operator in profile.operators)


def predict_network(profile: Profile, device: Device) -> NetworkPrediction:
    """Predict a network counted in `profile`, at the batch it was counted with.

    Raises `DeviceError` if nothing is known of the device, if the profile has no operator or if the network is
    quantised.
    """
    if not profile.operators:
        raise DeviceError(f"{profile.network} runs no operator: nothing to predict")
    if not is_predictable(profile):
        raise DeviceError(
            f"{profile.network} is quantised, and predictions cover float networks: count it without a device, or "
            "time it (tenfold bench)"
        )
    if device.calibration is not None:
        return _calibrated(profile, device, device.calibration)
    if device.machine is not None:
        return _roofline(profile, device, device.machine)
    raise DeviceError(
        f"nothing is known of {device.title}: tenfold calibrate measures it, or take one of the catalogue"
    )


def annotate(profile: Profile, device: Device) -> Profile:
    """The profile with the milliseconds and the bound of every layer, and the prediction of the whole.

    A kernel's time goes to the layer of its first operator; a layer that runs within another's kernel has 0 ms
    and the bound "fused".
    """
    predicted = predict_network(profile, device)
    parts: dict[tuple[str, str], dict[str, float]] = {}
    for time in predicted.kernels:
        key = (time.kernel.layer, time.kernel.op)
        sums = parts.setdefault(key, dict.fromkeys(time.parts_ms, 0.0))
        for name, ms in time.parts_ms.items():
            sums[name] += ms
    layers = []
    for layer in profile.layers:
        own = parts.get((layer.name, layer.op))
        ms, bound = (sum(own.values()), bound_of(own)) if own is not None else (0.0, FUSED)
        layers.append(replace(layer, predicted_ms=ms, bound=bound))
    return replace(profile, layers=tuple(layers), prediction=predicted.prediction)


def roofline_ms(profile: Profile, device: Device) -> float:
    """The plain roofline: every operator at the machine's peaks, and no overhead. Predictions must do better."""
    if device.machine is None:
        raise DeviceError(f"the roofs of {device.title} are not known")
    kernels = kernels_of(profile.operators, device)
    return sum(max(parts[COMPUTE], parts[MEMORY]) for parts in _roofs(kernels, device.machine)) * 1e3


def _calibrated(profile: Profile, device: Device, calibration: Calibration) -> NetworkPrediction:
    reference, fitted = calibration.reference, calibration.fitted
    kernels = kernels_of(profile.operators, device, reference.block)
    _check_type(kernels, reference.dtype, profile.network)
    views, modules = (profile.views, profile.module_calls) if device.runtime == "torch" else (0, 0)
    terms = network_terms(kernels, reference, views, modules)
    _log, slope = log_gradient(terms, fitted.parameters, reference)
    uncertain = float(slope[0] @ fitted.covariance @ slope[0])
    # The errors that the spread comes from hold the noise of a quiet machine; a busy one is less sure still.
    noise = calibration.noise.spread if calibration.noise.loaded else 0.0
    spread = math.sqrt(uncertain + fitted.residual**2 + noise**2)
    seconds = kernel_seconds(terms, fitted.parameters)
    total = totals(terms, seconds, fitted.parameters, reference)
    # Where times overlap, each part of a kernel gets the share of the total that it is answerable for.
    launching, compute, memory, rest = (seconds * total.by_parts).T
    # What is left is the weights' way from memory on a processor, and the floor of a kernel on a device of its own.
    parts = (
        (compute, memory, launching + rest) if reference.asynchronous else (compute, memory + rest, launching)
    )
    table = np.stack(parts, axis=1) * 1e3
    ms = 1e3 * float(total.seconds[0])
    return _made(kernels, table, ms, spread, ms - float(table.sum()), CALIBRATED)


def _roofline(profile: Profile, device: Device, machine: Machine) -> NetworkPrediction:
    kernels = kernels_of(profile.operators, device)
    rows = []
    for parts in _roofs(kernels, machine):
        # Arithmetic and transfers overlap: the longer counts, and a launch.
        longer = COMPUTE if parts[COMPUTE] >= parts[MEMORY] else MEMORY
        rows.append(
            [parts[COMPUTE] * (longer == COMPUTE), parts[MEMORY] * (longer == MEMORY), parts[OVERHEAD]]
        )
    table = 1e3 * np.array(rows)
    predicted = _made(kernels, table, float(table.sum()), 0.0, 0.0, ROOFLINE)
    return replace(predicted, high_ms=predicted.ms * ROOFLINE_SLACK)


def _check_type(kernels: Sequence[Kernel], dtype: str, network: str) -> None:
    """Most of the arithmetic must be in the type that was calibrated."""
    sizes: dict[int, int] = {}
    for kernel in kernels:
        sizes[kernel.itemsize] = sizes.get(kernel.itemsize, 0) + kernel.macs
    size = max(sizes, key=lambda size: sizes[size])
    if sizes[size] and size != ITEMSIZES[dtype]:
        raise DeviceError(
            f"{network} computes in {8 * size} bits and the device was calibrated for {dtype}; "
            "cast the network, or calibrate for its type"
        )


def _roofs(kernels: Sequence[Kernel], machine: Machine) -> list[dict[str, float]]:
    """Seconds of compute, memory and overhead of each kernel at its roofs."""
    found = []
    for kernel in kernels:
        moved = kernel.activation_bytes + kernel.weight_bytes
        dtype = DTYPES.get(kernel.itemsize, "fp32")
        flops = 2 * kernel.macs + kernel.other_flops
        found.append(roofline_parts(machine, flops, moved, dtype, level=level_of(machine, moved)))
    return found


def _made(
    kernels: Sequence[Kernel], table: np.ndarray, ms: float, spread: float, call_ms: float, how: str
) -> NetworkPrediction:
    """`table` has the milliseconds of compute, memory and overhead of each kernel."""
    names = (COMPUTE, MEMORY, OVERHEAD)
    times = []
    for kernel, row in zip(kernels, table, strict=True):
        parts = dict(zip(names, map(float, row), strict=True))
        times.append(KernelTime(kernel, float(row.sum()), bound_of(parts), parts))
    sums = dict(zip(names, map(float, table.sum(axis=0)), strict=True))
    sums[OVERHEAD] += call_ms
    factor = math.exp(COVERAGE_Z * spread)
    return NetworkPrediction(ms, ms / factor, ms * factor, bound_of(sums), how, call_ms, tuple(times))
