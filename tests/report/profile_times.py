"""Times for tests: the limit that roofs set, worked out here by the formula."""

from __future__ import annotations

from tenfold.cost import Profile
from tenfold.report import Roofs, Times, View, view

CPU = Roofs("a CPU", {"fp32": 64e9, "int8": 128e9}, {"L2": 128e9, "DRAM": 16e9}, "fp32", "DRAM", "a paper")


def limits(counted: Profile, roofs: Roofs) -> Times:
    """max(arithmetic / peak, bytes / bandwidth) for each layer."""
    compute = [1e3 * (layer.flops + layer.other_flops) / roofs.peak for layer in counted.layers]
    memory = [1e3 * (layer.bytes_read + layer.bytes_written) / roofs.bandwidth for layer in counted.layers]
    ms = tuple(map(max, zip(compute, memory, strict=True)))
    bounds = tuple("compute" if c >= m else "memory" for c, m in zip(compute, memory, strict=True))
    return Times(ms, bounds, sum(ms), None, None, "limit")


def timed(counted: Profile, name: str, roofs: Roofs | None) -> View:
    """The view of a profile with those times, or with none."""
    return view(counted, name, limits(counted, roofs) if roofs else None)
