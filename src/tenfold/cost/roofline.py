"""The roofline (Williams, Waterman & Patterson 2009): what a machine can attain at a given arithmetic intensity.

A machine has a peak rate for each data type and levels of memory, each with a bandwidth. Work that does I operations
for each byte of a level can run no faster than min(peak, I · bandwidth).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

COMPUTE, MEMORY, OVERHEAD = "compute", "memory", "overhead"


@dataclass(frozen=True)
class MemoryLevel:
    """A level of memory: its size in bytes (None where it does not matter) and its bandwidth in bytes/s."""

    name: str
    bytes_per_s: float
    size: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields as plain JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Machine:
    """The roofs of a machine. `peaks` are floating-point or integer operations/s by data type, two for a
    multiply-add; `levels` go from the fastest memory to main memory; `launch_s` is the least time between two
    kernels. `sources` says, by field, where each figure comes from; `measured` that it was measured here.
    """

    name: str
    kind: str
    peaks: Mapping[str, float]
    levels: tuple[MemoryLevel, ...]
    launch_s: float
    sources: Mapping[str, str] = field(default_factory=dict)
    measured: bool = False

    def __post_init__(self) -> None:
        if not self.peaks or not self.levels:
            raise ValueError(f"{self.name}: a machine needs a peak rate and a level of memory at least")
        rates = [*self.peaks.values(), *(level.bytes_per_s for level in self.levels)]
        if not all(rate > 0 for rate in rates) or self.launch_s < 0:
            raise ValueError(f"{self.name}: rates must be above 0")

    @property
    def memory(self) -> MemoryLevel:
        """Main memory: the last level."""
        return self.levels[-1]

    def peak(self, dtype: str = "fp32") -> float:
        """Operations/s in `dtype`; of a type that the machine has no figure for, its widest wider one.

        A machine without fp32 units of its own figure computes fp32 in what it has.
        """
        if dtype in self.peaks:
            return self.peaks[dtype]
        for wider in ("fp16", "bf16", "tf32", "fp32"):
            if wider in self.peaks:
                return self.peaks[wider]
        return max(self.peaks.values())

    def to_json(self) -> dict[str, Any]:
        """Its fields as plain JSON."""
        return {
            "name": self.name,
            "kind": self.kind,
            "peaks": dict(self.peaks),
            "levels": [level.to_json() for level in self.levels],
            "launch_s": self.launch_s,
            "sources": dict(self.sources),
            "measured": self.measured,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Machine:
        """The inverse of `to_json`."""
        levels = tuple(MemoryLevel(**level) for level in data["levels"])
        return cls(**{**data, "levels": levels})


def attainable(
    machine: Machine, intensity: float, dtype: str = "fp32", level: MemoryLevel | None = None
) -> float:
    """The most operations/s at `intensity` operations for each byte of `level` (main memory unless told)."""
    return min(machine.peak(dtype), intensity * (level or machine.memory).bytes_per_s)


def ridge(machine: Machine, dtype: str = "fp32", level: MemoryLevel | None = None) -> float:
    """The intensity at which the two roofs meet, in operations for each byte: below it memory binds."""
    return machine.peak(dtype) / (level or machine.memory).bytes_per_s


def level_of(machine: Machine, working_set: float) -> MemoryLevel:
    """The fastest level that holds `working_set` bytes."""
    for level in machine.levels:
        if level.size is not None and working_set <= level.size:
            return level
    return machine.memory


def roofline_parts(
    machine: Machine, flops: float, moved: float, dtype: str = "fp32", *, level: MemoryLevel | None = None
) -> dict[str, float]:
    """Seconds of arithmetic, of moving `moved` bytes and of one launch, each at its roof, by the name of the bound."""
    return {
        COMPUTE: flops / machine.peak(dtype),
        MEMORY: moved / (level or machine.memory).bytes_per_s,
        OVERHEAD: machine.launch_s,
    }


def bound_of(parts: Mapping[str, float]) -> str:
    """Which part is largest: what must become less for the whole to become less."""
    return max(parts, key=lambda name: parts[name])
