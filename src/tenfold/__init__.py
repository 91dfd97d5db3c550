"""Tenfold makes a neural network fit its budget, and proves it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold.cost import Device
    from tenfold.data import Split, Task

__version__ = "0.1.0"

# Loaded on first use, so that `tenfold --help` and a bad argument answer at once.
_HOMES = {
    "Device": "tenfold.cost",
    "Split": "tenfold.data",
    "Task": "tenfold.data",
}

__all__ = ["Device", "Split", "Task"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'tenfold' has no attribute {name!r}")
