"""From ranges to scales, and from float weights to integers: the whole mathematics of uniform quantisation.

Activations: uint8, one scale and one integer zero point a tensor, x ≈ s · (q − z); a symmetric one has z = 128, which
is what signed integers without a zero point are. Weights: signed, symmetric, one scale for each output channel, or one
for all, w ≈ s_c · q (Krishnamoorthi, 2018, arXiv:1806.08342, sections 2 and 3). With 7 bits
a weight lies in ±63, so that the sum of two products with a uint8, at most 2 · 255 · 63 = 32,130, fits the 16-bit
intermediate of the AVX2 instruction vpmaddubsw.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.compress.quantize.grid import TINY, PerChannel, PerTensor, ZeroPoint
from tenfold.compress.quantize.ops import LEVELS, MIDDLE, along

# A bias is an int32 at scale s_x · s_w. A weight scale is kept large enough for its bias to fit with a bit to spare.
BIAS_LIMIT = 2.0**30


@dataclass(frozen=True)
class Affine:
    """How a tensor is quantised: x ≈ scale · (q − zero_point), q in 0 … 255."""

    scale: float
    zero_point: int


def affine_of_range(low: float, high: float, zero_point: ZeroPoint = ZeroPoint.INTEGER) -> Affine:
    """The uint8 quantiser of [low, high], widened so that zero is exact. A range of only zeros gets scale 1.

    A symmetric one spans ±max(−low, high) by the codes 1 … 255 about 128.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if zero_point is ZeroPoint.SYMMETRIC:
        scale = float(torch.tensor(max(-low, high) / (MIDDLE - 1), dtype=torch.float32))
        return Affine(scale if scale > TINY else 1.0, MIDDLE)
    scale = float(torch.tensor((high - low) / LEVELS, dtype=torch.float32))
    if scale <= TINY:
        return Affine(1.0, 0)
    return Affine(scale, min(max(round(-low / scale), 0), LEVELS))


def weight_limit(bits: int) -> int:
    """The largest integer of a symmetric signed weight: 127 for 8 bits, 63 for 7."""
    return 2 ** (bits - 1) - 1


def weight_scales(
    weight: Tensor,
    axis: int,
    bits: int,
    bias: Tensor | None = None,
    input_scale: float = 1.0,
    granularity: PerChannel | PerTensor = PerChannel(),  # noqa: B008 - frozen, so it may be shared
) -> Tensor:
    """One scale for each channel along `axis`: max |w| / limit, and at least what the int32 bias needs. (C,)

    Under `PerTensor` the largest of them, ().
    """
    channels = weight.detach().double().movedim(axis, 0).flatten(1)
    largest = channels.abs().amax(dim=1)
    scale = largest / weight_limit(bits)
    if bias is not None:
        scale = torch.maximum(scale, least_scales(bias, input_scale))
    if isinstance(granularity, PerTensor):
        scale = scale.amax()
    return scale.clamp(min=TINY).float()


def least_scales(bias: Tensor, input_scale: float) -> Tensor:
    """The scales of a weight (C,) below which its int32 bias (C,) would not fit: float64."""
    return bias.detach().double().abs() / (input_scale * BIAS_LIMIT)


def round_weight(weight: Tensor, scale: Tensor, axis: int, bits: int) -> Tensor:
    """The int8 integers of `weight` at `scale` (C,) or () along `axis`, within ±(2^(bits−1) − 1)."""
    limit = weight_limit(bits)
    q = torch.round(weight.detach() / along(scale, axis, weight.dim()))
    return q.clamp_(-limit, limit).to(torch.int8)


def round_bias(bias: Tensor, scale: Tensor) -> Tensor:
    """The int32 integers of `bias` (C,) at `scale` (C,) or () = s_x · s_w."""
    q = torch.round(bias.detach().double() / scale.double())
    return q.clamp_(-(2**31 - 1), 2**31 - 1).to(torch.int32)
