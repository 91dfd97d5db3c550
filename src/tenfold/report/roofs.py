"""The roofs of a device: what bounds an operator of a given arithmetic intensity.

The roofline model: Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for
multicore architectures", CACM 52(4), 2009: attainable rate = min(peak rate, intensity · bandwidth).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tenfold.errors import OutputError

PREDICTED, LIMIT = "predicted", "limit"
"""How times came about: from a calibrated device, or as the limit that the roofs of one set."""


@dataclass(frozen=True)
class Roofs:
    """A device as a picture needs it.

    `peaks` holds FLOP/s by data type, `bandwidths` bytes/s by memory level; `dtype` names the peak that the
    network is held against, `level` the memory that its bytes are counted at (caches lie above it).
    """

    device: str
    peaks: Mapping[str, float]
    bandwidths: Mapping[str, float]
    dtype: str
    level: str
    source: str = ""

    def __post_init__(self) -> None:
        for what, rates, key in (
            ("peak", self.peaks, self.dtype),
            ("bandwidth", self.bandwidths, self.level),
        ):
            if key not in rates:
                known = ", ".join(rates) or "none"
                raise OutputError(f"device {self.device}: no {what} for {key!r}; it has: {known}")
            if any(rate <= 0 for rate in rates.values()):
                raise OutputError(f"device {self.device}: every {what} must be above zero")

    @property
    def peak(self) -> float:
        """FLOP/s of the network's data type."""
        return self.peaks[self.dtype]

    @property
    def bandwidth(self) -> float:
        """Bytes/s of the memory that the network's bytes are counted at."""
        return self.bandwidths[self.level]

    @property
    def ridge(self) -> float:
        """The intensity, in FLOP per byte, from which arithmetic binds and not memory."""
        return self.peak / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """FLOP/s at most, at this intensity."""
        return min(self.peak, intensity * self.bandwidth)


@dataclass(frozen=True)
class Times:
    """The milliseconds of one forward pass and of each layer, in the order of the profile's layers.

    `bounds` has what binds each layer ("fused" is one that runs within another's kernel and has no time of its own), `low` and `high` the 90% interval of
    `total`, which may hold more than the layers: what a call costs however small the network.
    """

    ms: tuple[float, ...]
    bounds: tuple[str, ...]
    total: float
    low: float | None
    high: float | None
    how: str
