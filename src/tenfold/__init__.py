"""Tenfold makes a neural network fit its budget, and proves it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tenfold.compress import load
    from tenfold.cost import Device, profile
    from tenfold.data import Split, Task
    from tenfold.search import Budget, Frontier, shrink

__version__ = "0.1.0"

# Loaded on first use, so that `tenfold --help` and a wrong option answer at once.
_HOMES = {
    "Budget": "tenfold.search",
    "Device": "tenfold.cost",
    "Frontier": "tenfold.search",
    "Split": "tenfold.data",
    "Task": "tenfold.data",
    "load": "tenfold.compress",
    "profile": "tenfold.cost",
    "shrink": "tenfold.search",
}

# Rooms that users name, which come with the package: `tenfold.models.create` needs no import of its own.
_ROOMS = frozenset(
    {"compress", "cost", "data", "deploy", "errors", "models", "nn", "report", "search", "training"}
)

__all__ = ["Budget", "Device", "Frontier", "Split", "Task", "load", "profile", "shrink"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"tenfold.{name}")
    raise AttributeError(f"module 'tenfold' has no attribute {name!r}")
