"""Quantities as people type them: `5ms`, `2MB`, `1%`, `5m`."""

from __future__ import annotations

import math
import re

from tenfold.errors import BudgetError

MILLISECONDS = {"us": 1e-3, "µs": 1e-3, "ms": 1.0, "s": 1e3, "": 1.0}
MEGABYTES = {
    "b": 1e-6,
    "kb": 1e-3,
    "mb": 1.0,
    "gb": 1e3,
    "kib": 1024e-6,
    "mib": 1.048576,
    "gib": 1073.741824,
    "": 1.0,
}
SHARES = {"%": 0.01, "": 1.0}
SECONDS = {"s": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "": 1.0}
NUMBER = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*([a-zA-Zµ%]*)\s*")


def milliseconds(text: str, option: str = "--latency") -> float:
    """`5ms`, `800us`, `0.1s`; a bare number is milliseconds."""
    return _parsed(text, MILLISECONDS, option, "5ms")


def megabytes(text: str, option: str = "--size") -> float:
    """`2MB`, `340KB`, `1.5MiB` in units of 10^6 bytes; a bare number is megabytes."""
    return _parsed(text, MEGABYTES, option, "2MB")


def share(text: str, option: str = "--max-drop") -> float:
    """`1%` or `0.01`."""
    return _parsed(text, SHARES, option, "1%")


def seconds(text: str, option: str = "--time") -> float:
    """`5m`, `90s`, `1h`; a bare number is seconds."""
    return _parsed(text, SECONDS, option, "5m")


def _parsed(text: str, units: dict[str, float], option: str, example: str) -> float:
    match = NUMBER.fullmatch(text)
    unit = match[2].lower() if match else None
    if match is None or unit not in units:
        known = ", ".join(unit for unit in units if unit)
        raise BudgetError(
            f"{option} {text!r} cannot be read: give a number and a unit ({known}), as in {example}"
        )
    value = float(match[1]) * units[unit]
    if not math.isfinite(value) or value <= 0:
        raise BudgetError(f"{option} must be above zero, not {text!r}")
    return value


def dimensions(text: str, option: str = "--input") -> tuple[int, ...]:
    """`1x3x224x224` as (1, 3, 224, 224)."""
    try:
        sizes = tuple(int(part) for part in text.lower().split("x"))
    except ValueError:
        sizes = ()
    if not sizes or any(size < 1 for size in sizes):
        raise BudgetError(f"{option} {text!r} is no shape: give whole numbers, as in 1x3x224x224")
    return sizes
