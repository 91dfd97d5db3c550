"""Machines by name, for a network that will run where one cannot measure. Each figure says where it comes from."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from tenfold.cost.device import Device
from tenfold.cost.roofline import Machine, MemoryLevel
from tenfold.errors import DeviceError
from tenfold.naming import nearest

FILE = Path(__file__).parent / "catalogue.json"


def catalogue_names() -> list[str]:
    """The names that `catalogue_device` takes."""
    return list(_machines())


def catalogue_machine(name: str) -> Machine:
    """The roofs of a machine of the catalogue; `DeviceError` with the nearest names where there is none."""
    if name not in _machines():
        raise DeviceError(f"no machine {name!r} in the catalogue{nearest(name, catalogue_names())}")
    return _machines()[name]


def catalogue_device(name: str, *, batch: int = 1) -> Device:
    """A device that is known by its roofs alone: predictions on it are rooflines and say so."""
    machine = catalogue_machine(name)
    runtime = "onnxruntime" if machine.kind == "cpu" else "torch"
    return replace(Device(machine.kind, runtime, 1, batch), machine=machine)


def read_device(spec: str) -> Device:
    """A device file's path, or a name of the catalogue."""
    if spec in _machines() and not Path(spec).exists():
        return catalogue_device(spec)
    if not Path(spec).exists() and not spec.endswith(".json"):
        raise DeviceError(
            f"{spec!r} is neither a device file nor in the catalogue ({', '.join(catalogue_names())})"
        )
    return Device.load(spec)


@cache
def _machines() -> dict[str, Machine]:
    stored: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))["machines"]
    return {name: _machine(entry) for name, entry in stored.items()}


def _machine(entry: dict[str, Any]) -> Machine:
    levels = tuple(MemoryLevel(name, rate, size) for name, rate, size in entry["levels"])
    return Machine(entry["title"], entry["kind"], entry["peaks"], levels, entry["launch_s"], entry["sources"])
