"""The integer arithmetic of a quantised network, as PyTorch operators with the semantics of their ONNX namesakes.

`tenfold::quantize` is QuantizeLinear and `tenfold::dequantize` DequantizeLinear: x ≈ scale · (q − zero_point), an
integer zero point, ties rounded to even. The dynamic operators measure the range of their input at every call, over
the whole tensor (so over the batch), as DynamicQuantizeLinear does. The ONNX target translates each of them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LEVELS = 255  # uint8 activations take the values 0 … 255


@torch.library.custom_op("tenfold::quantize", mutates_args=())
def quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """float32 (…) -> uint8 (…): clamp(round(x / scale) + zero_point, 0, 255)."""
    return torch.div(x, scale).round_().add_(zero_point).clamp_(0, LEVELS).to(torch.uint8)


@quantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


@torch.library.custom_op("tenfold::dequantize", mutates_args=())
def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """uint8 (…) -> float32 (…): scale · (q − zero_point)."""
    return q.to(torch.float32).sub_(zero_point).mul_(scale)


@dequantize.register_fake
def _(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


@torch.library.custom_op("tenfold::dequantize_channels", mutates_args=())
def dequantize_channels(q: Tensor, scale: Tensor, axis: int) -> Tensor:
    """Signed integers to float32 with one scale for each index of `axis`: scale (C,), zero point 0."""
    return q.to(torch.float32).mul_(along(scale, axis, q.dim()))


@dequantize_channels.register_fake
def _(q: Tensor, scale: Tensor, axis: int) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


@torch.library.custom_op("tenfold::dynamic_linear", mutates_args=())
def dynamic_linear(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """x (…, K) float32, weight (N, K) int8, scale (N,), bias (N,) float32 -> (…, N)."""
    return F.linear(quantized_at_run_time(x), weight.to(torch.float32) * along(scale, 0, 2), bias)


@dynamic_linear.register_fake
def _(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@torch.library.custom_op("tenfold::dynamic_conv", mutates_args=())
def dynamic_conv(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    """x (N, Cin, *space) float32, weight (Cout, Cin / groups, *kernel) int8, scale (Cout,) -> (N, Cout, *space)."""
    kernel = weight.to(torch.float32) * along(scale, 0, weight.dim())
    x = quantized_at_run_time(x)
    return torch.convolution(
        x, kernel, bias, stride, padding, dilation, False, [0] * len(padding), groups
    )


@dynamic_conv.register_fake
def _(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
) -> Tensor:
    kernel = weight.to(torch.float32)
    return torch.convolution(
        x, kernel, bias, stride, padding, dilation, False, [0] * len(padding), groups
    )


def quantized_at_run_time(x: Tensor) -> Tensor:
    """`x` rounded as ONNX DynamicQuantizeLinear rounds it: uint8 over the range of `x` itself, zero included."""
    low, high = torch.aminmax(x)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (high - low) / LEVELS
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero_point = (-low / scale).round_().clamp_(0, LEVELS)
    q = torch.div(x, scale).round_().add_(zero_point).clamp_(0, LEVELS)
    return q.sub_(zero_point).mul_(scale)


def along(values: Tensor, axis: int, dims: int) -> Tensor:
    """`values` (C,) shaped to broadcast along `axis` of a tensor of `dims` dimensions."""
    return values.reshape([-1 if d == axis % dims else 1 for d in range(dims)])
