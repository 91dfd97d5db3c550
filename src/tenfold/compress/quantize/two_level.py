"""Grids of two levels of scales: fewer bits than eight in a file, int8 in the kernel.

w ≈ s_c · m_g · (q − 2^(b−1)), with a float scale s_c for each output channel, a whole number m_g of four bits for each
group of its inputs, and codes q of b bits. m_g · (q − 2^(b−1)) is an integer of eight bits, so that an integer kernel,
which sums over all inputs of a channel, computes with it under s_c alone: the second level costs nothing at run time.
Dai et al., 2021, "VS-Quant" (arXiv:2102.04503, section 4.3); Lin et al., 2024, "QServe" (arXiv:2405.04532, section
4.1), which calls it progressive group quantisation.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from tenfold.compress.quantize.grid import TINY, Grid

MULTIPLE_BITS = 4
LARGEST = 2**MULTIPLE_BITS - 1
SMALLEST_GROUP = 8  # inputs: below, multiples would weigh too much beside the codes
ROUNDED_UP = 1.01  # scales of groups are bfloat16, and may so be above what their weights reach


@dataclass(frozen=True)
class TwoLevelGrid(Grid):
    """A symmetric grid whose `scale` (R, G) is `channel` (R, 1) · `multiples` (R, G), whole numbers as float32."""

    channel: Tensor = field(kw_only=True)
    multiples: Tensor = field(kw_only=True)


def largest_multiple(bits: int, limit: int) -> int:
    """The largest m for which m · 2^(bits − 1) is within `limit`; 0 where not even the codes are."""
    return min(LARGEST, limit // 2 ** (bits - 1))


def equal_groups(width: int, most: int) -> int:
    """In groups of how many inputs `width` is parted: equal ones of at most `most`, or all in one."""
    if width <= most:
        return width
    fitting = [size for size in range(SMALLEST_GROUP, most + 1) if width % size == 0]
    return max(fitting, default=width)


def two_level(
    grid: Grid, matrix: Tensor, limit: int, least: Tensor, importance: Tensor | None = None
) -> TwoLevelGrid:
    """The grid of two levels that is nearest to the symmetric `grid` of `matrix` (R, K), whose groups are equal.

    The largest scale of a channel gets the largest multiple whose products are within ±`limit`. The multiple of a group
    is the one whose rounding errs least, by squares that `importance` (R, K) weighs. No channel's scale is below
    `least` (R,), and one of zeros has no other. Raises `ValueError` for codes that are not within ±`limit`.
    """
    rows, groups = grid.scale.shape
    top = largest_multiple(grid.bits, limit)
    if top < 1:
        raise ValueError(f"{grid.bits} bits do not lie within ±{limit}")
    top = top if groups > 1 else 1
    middle = 2 ** (grid.bits - 1)
    in_groups = matrix.reshape(rows, groups, -1)
    # The grid gives groups of zeros the scale 1, which is not to be their channel's.
    reach = in_groups.abs().amax(2) / (middle - 1)
    needed = torch.where(grid.scale > ROUNDED_UP * reach, reach, grid.scale).amax(1) / top
    channel = torch.maximum(needed, least.to(grid.scale)).clamp(min=TINY)[:, None]
    weights = 1.0 if importance is None else importance.expand_as(matrix).reshape(in_groups.shape)
    multiples, best = torch.ones_like(grid.scale), torch.full_like(grid.scale, torch.inf)
    for multiple in range(1, top + 1):
        step = (channel * multiple)[:, :, None]
        rounded = torch.round(in_groups / step).clamp_(-middle, middle - 1).mul_(step)
        error = (rounded.sub_(in_groups).square_() * weights).sum(2)
        multiples = torch.where(error < best, float(multiple), multiples)
        best = torch.minimum(error, best)
    scale = channel * multiples
    zero = torch.full_like(scale, float(middle))
    return TwoLevelGrid(grid.bits, scale, zero, grid.group, channel=channel, multiples=multiples)
