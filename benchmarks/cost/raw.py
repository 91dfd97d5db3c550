"""What calibration measured, kept as it was measured: the predictor is fitted to it afterwards, on any machine."""

from __future__ import annotations

import gzip
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tenfold.cost import Device, Machine
from tenfold.cost.calibrating import fitted_calibration, reference_of
from tenfold.cost.calibration import Noise
from tenfold.cost.observing import Observation


def raw_calibration(machine: Machine, found: Sequence[Observation], noise: Noise) -> dict[str, Any]:
    """The roofs, the samples and the noise as plain JSON."""
    return {
        "machine": machine.to_json(),
        "noise": {"spread": noise.spread, "repeated": noise.repeated},
        "observations": [one.to_json() for one in found],
    }


def calibrated_from(raw: dict[str, Any], device: Device, dtype: str) -> Device:
    """The device with the predictor fitted to the samples, as `tenfold calibrate` fits it."""
    machine = Machine.from_json(raw["machine"])
    found = [Observation.from_json(one) for one in raw["observations"]]
    reference = reference_of(device, machine, dtype)
    calibration = fitted_calibration(device, found, Noise(**raw["noise"]), reference, time.monotonic())
    return replace(device, machine=machine, calibration=calibration)


def write_raw(path: Path, raw: dict[str, Any]) -> None:
    """Compressed JSON."""
    path.write_bytes(gzip.compress(json.dumps(raw).encode(), 6))


def read_raw(path: Path) -> dict[str, Any]:
    """The inverse of `write_raw`."""
    found: dict[str, Any] = json.loads(gzip.decompress(path.read_bytes()))
    return found
