"""A device and a profile annotated with its times, as the pictures need them."""

from __future__ import annotations

from tenfold.cost import Device, Machine, Profile
from tenfold.cost.device_prediction import FUSED
from tenfold.report.roofs import LIMIT, PREDICTED, Roofs, Times


def roofs_of(device: Device, dtype: str = "fp32") -> Roofs | None:
    """The roofs of a device for a network that computes in `dtype`; None for a device of which nothing is known."""
    machine = device.machine
    if machine is None:
        return None
    return Roofs(
        device=machine.name,
        peaks=dict(machine.peaks),
        bandwidths={level.name: level.bytes_per_s for level in machine.levels},
        dtype=_computed_in(machine, dtype),
        level=machine.memory.name,
        source="; ".join(f"{what}: {source}" for what, source in machine.sources.items()),
    )


def _computed_in(machine: Machine, dtype: str) -> str:
    """The type whose peak holds for `dtype`: its own, or the one that the machine falls back on."""
    if dtype in machine.peaks:
        return dtype
    rate = machine.peak(dtype)
    return next(name for name, peak in machine.peaks.items() if peak == rate)


def times_of(counted: Profile, device: Device) -> Times | None:
    """The times that a profile carries which was counted for `device`; None where it carries none."""
    if counted.prediction is None:
        return None
    calibrated = device.calibration is not None
    return Times(
        ms=tuple(layer.predicted_ms or 0.0 for layer in counted.layers),
        bounds=tuple(layer.bound or FUSED for layer in counted.layers),
        total=counted.prediction.ms,
        low=counted.prediction.low if calibrated else None,
        high=counted.prediction.high if calibrated else None,
        how=PREDICTED if calibrated else LIMIT,
    )
