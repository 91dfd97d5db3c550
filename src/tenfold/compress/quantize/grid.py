"""The grid that a weight is rounded to: w ≈ s · (q − z), q an unsigned integer of b bits.

The weight is looked at as a matrix (R, K): a row for each output channel, a column for each input of it. Scale and
zero point are one number for the whole of it (1, 1), one a row (R, 1), or one for each `group` columns of a row
(R, ⌈K / group⌉), the last of which may be shorter. z is 2^(b−1) for a symmetric grid and then not stored; an integer
within the codes, as runtimes want it; or any real number (Krishnamoorthi, 2018, arXiv:1806.08342, section 2).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

import torch
from torch import Tensor

BITS = range(2, 9)
TINY = 1e-12  # no scale is smaller


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole weight."""


@dataclass(frozen=True)
class PerChannel:
    """One scale for each output channel."""


@dataclass(frozen=True)
class PerGroup:
    """One scale, in bfloat16, for each `size` inputs of an output channel."""

    size: int = 32

    def __post_init__(self) -> None:
        if type(self.size) is not int or self.size < 2:
            raise ValueError(f"size must be a whole number of at least 2, not {self.size!r}")


Granularity = PerTensor | PerChannel | PerGroup


class ZeroPoint(enum.Enum):
    """Where zero lies: in the middle of the codes (SYMMETRIC), at one of them (INTEGER), or anywhere (REAL)."""

    SYMMETRIC = "symmetric"
    INTEGER = "integer"
    REAL = "real"


@dataclass(frozen=True)
class Grid:
    """`scale` and `zero_point` (1, 1), (R, 1) or (R, G), float32; `group` columns share one (0: all of them)."""

    bits: int
    scale: Tensor
    zero_point: Tensor
    group: int = 0

    @property
    def top(self) -> int:
        """The largest code."""
        return 2**self.bits - 1

    def columns(self, width: int) -> tuple[Tensor, Tensor]:
        """Scale and zero point for each of `width` columns: (1 or R, 1 or width)."""
        return spread(self.scale, width, self.group), spread(self.zero_point, width, self.group)

    def quantized(self, matrix: Tensor) -> Tensor:
        """The nearest codes of `matrix` (R, K), ties to even: uint8 (R, K)."""
        scale, zero = self.columns(matrix.shape[1])
        return torch.round(matrix / scale + zero).clamp_(0, self.top).to(torch.uint8)

    def dequantized(self, codes: Tensor) -> Tensor:
        """float32 (R, K): s · (q − z)."""
        scale, zero = self.columns(codes.shape[1])
        return scale * (codes.to(torch.float32) - zero)

    def rounded(self, matrix: Tensor) -> Tensor:
        """`matrix` (R, K) rounded to the nearest points of the grid."""
        return self.dequantized(self.quantized(matrix))


def spread(values: Tensor, width: int, group: int) -> Tensor:
    """`values` (R, G) repeated for each column of its group: (R, width); those of one column stay as they are."""
    if values.shape[1] == 1:
        return values
    return values[:, torch.arange(width, device=values.device) // group]


def scale_shape(granularity: Granularity, rows: int, width: int) -> tuple[int, int]:
    """The shape of the scales of a weight of `rows` × `width`."""
    if isinstance(granularity, PerTensor):
        return 1, 1
    if isinstance(granularity, PerChannel):
        return rows, 1
    return rows, -(-width // granularity.size)


def stored_type(granularity: Granularity) -> torch.dtype:
    """What scales are stored as: many small ones in bfloat16, whose 8 bits any choice of a grid can spare."""
    return torch.bfloat16 if isinstance(granularity, PerGroup) else torch.float32


def grid_of_ranges(
    low: Tensor, high: Tensor, bits: int, zero_point: ZeroPoint, granularity: Granularity
) -> Grid:
    """The grid that spans [low, high], each (1, 1), (R, 1) or (R, G); exactly what the stored form can say.

    Zero is always within the range. Symmetric grids end at ±max(−low, high) with the code −2^(b−1) to spare.
    """
    low, high = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    middle = 2 ** (bits - 1)
    if zero_point is ZeroPoint.SYMMETRIC:
        scale = torch.maximum(-low, high) / (middle - 1)
    else:
        scale = (high - low) / (2**bits - 1)
    dtype = stored_type(granularity)
    scale = torch.where(scale > TINY, scale, torch.ones_like(scale)).to(dtype).float()
    if zero_point is ZeroPoint.SYMMETRIC:
        zero = torch.full_like(scale, float(middle))
    elif zero_point is ZeroPoint.INTEGER:
        zero = (-low / scale).round().clamp(0, 2**bits - 1).float()
    else:
        zero = (-low / scale).to(dtype).float()
    return Grid(bits, scale, zero, granularity.size if isinstance(granularity, PerGroup) else 0)
