"""What the network must fit: limits that a point is judged by."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from tenfold.errors import BudgetError
from tenfold.search.point import Point

MB = 1_000_000
DEFAULT_MAX_DROP = 0.01


@dataclass(frozen=True)
class Budget:
    """Limits, each None where there is none.

    latency_ms: median latency of one call, in milliseconds. size_mb: bytes on disk of every file that the
    runtime needs, in units of 10^6 bytes. memory_mb: peak resident size of a fresh process that runs the
    network, in units of 10^6 bytes. max_drop: loss of the metric against the original (0.01 is one point of
    accuracy), judged by the upper bound of its 95% interval.
    """

    latency_ms: float | None = None
    size_mb: float | None = None
    memory_mb: float | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
                raise BudgetError(f"{name} must be a number, not {value!r}")
            if value <= 0:
                raise BudgetError(f"{name} must be above zero, not {value}: no network could meet it")
        if self.max_drop is not None and self.max_drop >= 1:
            raise BudgetError(
                f"max_drop is a share of the metric (0.01 is one point), not {self.max_drop}: 1 or more allows any loss"
            )

    @property
    def empty(self) -> bool:
        """Whether no limit was given at all."""
        return all(value is None for value in asdict(self).values())

    @property
    def tolerated_drop(self) -> float:
        """`max_drop`, or one point where none was given: what the search aims at and marks its best by."""
        return DEFAULT_MAX_DROP if self.max_drop is None else self.max_drop

    def excesses(self, point: Point) -> dict[str, float]:
        """For each limit, what the point uses of it, as a share: above 1 breaks it, inf where not measured."""
        drop = point.drop_high if point.drop_high is not None else point.validation_drop_high
        used = {
            "latency_ms": (point.latency_ms, self.latency_ms),
            "size_mb": (None if point.size_bytes is None else point.size_bytes / MB, self.size_mb),
            "memory_mb": (
                None if point.peak_memory_bytes is None else point.peak_memory_bytes / MB,
                self.memory_mb,
            ),
            "max_drop": (drop, self.max_drop),
        }
        return {
            name: math.inf if value is None else value / limit
            for name, (value, limit) in used.items()
            if limit is not None
        }

    def met_by(self, point: Point) -> bool:
        """Whether every limit is kept; a value that was not measured keeps none."""
        return all(share <= 1 for share in self.excesses(point).values())

    def to_json(self) -> dict[str, Any]:
        """The limits as plain data."""
        return asdict(self)
