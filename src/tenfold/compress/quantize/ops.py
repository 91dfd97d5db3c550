"""The integer arithmetic of a quantised network, as PyTorch operators with the semantics of their ONNX namesakes.

`tenfold::quantize` is QuantizeLinear and `tenfold::dequantize` DequantizeLinear: x ≈ scale · (q − zero_point), an
integer zero point, ties rounded to even. The dynamic operators measure the range of their input at every call, over
the whole tensor (so over the batch), as DynamicQuantizeLinear does, or symmetrically, for which ONNX has no operator of
its own. The ONNX target translates each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.compress.quantize.codes import unpack_codes
from tenfold.compress.quantize.grid import spread
from tenfold.compress.quantize.two_level import MULTIPLE_BITS
from tenfold.cost import register

LEVELS = 255  # uint8 activations take the values 0 … 255
MIDDLE = 128  # the zero point of symmetric ones
SMALLEST_SCALE = 1e-12  # of a symmetric tensor at run time, where all of it is zero
LIBRARY = torch.library.Library("tenfold", "FRAGMENT")


def define(schema: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register the decorated function as `torch.ops.tenfold.NAME`; it stays callable as it is.

    Registered by hand, since `torch.library.custom_op` makes tracing twice as slow.
    """
    name = schema.partition("(")[0]
    LIBRARY.define(schema)

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        LIBRARY.impl(name, function, "CompositeExplicitAutograd")
        return function

    return register


def shape_of_result(name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register what `torch.ops.tenfold.NAME` returns when it is traced without data."""
    return torch.library.register_fake(f"tenfold::{name}", lib=LIBRARY)


@define("quantize(Tensor x, Tensor scale, Tensor zero_point) -> Tensor")
def quantize(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """float32 (…) -> uint8 (…): clamp(round(x / scale) + zero_point, 0, 255)."""
    return torch.div(x, scale).round_().add_(zero_point).clamp_(0, LEVELS).to(torch.uint8)


@shape_of_result("quantize")
def _(x: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(x, dtype=torch.uint8)


@define("dequantize(Tensor q, Tensor scale, Tensor zero_point) -> Tensor")
def dequantize(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    """uint8 (…) -> float32 (…): scale · (q − zero_point)."""
    return q.to(torch.float32).sub_(zero_point).mul_(scale)


@shape_of_result("dequantize")
def _(q: Tensor, scale: Tensor, zero_point: Tensor) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


@define("dequantize_channels(Tensor q, Tensor scale, int axis) -> Tensor")
def dequantize_channels(q: Tensor, scale: Tensor, axis: int) -> Tensor:
    """Signed integers to float32 with one scale for each index of `axis`, (C,), or for all, (); zero point 0."""
    return q.to(torch.float32).mul_(along(scale, axis, q.dim()))


@shape_of_result("dequantize_channels")
def _(q: Tensor, scale: Tensor, axis: int) -> Tensor:
    return torch.empty_like(q, dtype=torch.float32)


@define("dynamic_linear(Tensor x, Tensor weight, Tensor scale, Tensor? bias, bool symmetric=False) -> Tensor")
def dynamic_linear(
    x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, symmetric: bool = False
) -> Tensor:
    """x (…, K) float32, weight (N, K) int8, scale (N,) or (), bias (N,) float32 -> (…, N)."""
    return F.linear(quantized_at_run_time(x, symmetric), weight.to(torch.float32) * along(scale, 0, 2), bias)


@shape_of_result("dynamic_linear")
def _(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, symmetric: bool = False) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


@define(
    "dynamic_conv(Tensor x, Tensor weight, Tensor scale, Tensor? bias, "
    "int[] stride, int[] padding, int[] dilation, int groups, bool symmetric=False) -> Tensor"
)
def dynamic_conv(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    symmetric: bool = False,
) -> Tensor:
    """x (N, Cin, *space) float32, weight (Cout, Cin / groups, *kernel) int8, scale (Cout,) or () -> (N, Cout, *space)."""
    kernel = weight.to(torch.float32) * along(scale, 0, weight.dim())
    x = quantized_at_run_time(x, symmetric)
    return torch.convolution(x, kernel, bias, stride, padding, dilation, False, [0] * len(padding), groups)


@shape_of_result("dynamic_conv")
def _(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    symmetric: bool = False,
) -> Tensor:
    kernel = weight.to(torch.float32)
    return torch.convolution(x, kernel, bias, stride, padding, dilation, False, [0] * len(padding), groups)


@define("embed(Tensor table, Tensor scale, Tensor indices) -> Tensor")
def embed(table: Tensor, scale: Tensor, indices: Tensor) -> Tensor:
    """Rows of a table (V, D) int8 with a scale (V,) for each: indices (…) -> (…, D) float32."""
    return table[indices].to(torch.float32).mul_(scale[indices].unsqueeze(-1))


@shape_of_result("embed")
def _(table: Tensor, scale: Tensor, indices: Tensor) -> Tensor:
    return scale.new_empty((*indices.shape, table.shape[1]))


def quantized_at_run_time(x: Tensor, symmetric: bool = False) -> Tensor:
    """`x` rounded as ONNX DynamicQuantizeLinear rounds it: uint8 over the range of `x` itself, zero included.

    A symmetric one spans ±max |x| about the zero point 128.
    """
    if symmetric:
        scale = (x.abs().amax() / (MIDDLE - 1)).clamp(min=SMALLEST_SCALE)
        return torch.div(x, scale).round_().clamp_(-MIDDLE, MIDDLE - 1).mul_(scale)
    low, high = torch.aminmax(x)
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    scale = (high - low) / LEVELS
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    zero_point = (-low / scale).round_().clamp_(0, LEVELS)
    q = torch.div(x, scale).round_().add_(zero_point).clamp_(0, LEVELS)
    return q.sub_(zero_point).mul_(scale)


def along(values: Tensor, axis: int, dims: int) -> Tensor:
    """`values` (C,), or one for all (), shaped to broadcast along `axis` of a tensor of `dims` dimensions."""
    return values.reshape([-1 if d == axis % dims else 1 for d in range(dims)])


@define(
    "unpack_weight(Tensor codes, Tensor scale, Tensor? zero_point, int bits, int[] shape, int axis, int group) "
    "-> Tensor"
)
def unpack_weight(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bits: int,
    shape: list[int],
    axis: int,
    group: int,
) -> Tensor:
    """Packed codes (bytes,) uint8 to a float32 weight of `shape`: s · (q − z), z = 2^(bits − 1) where none is given.

    The weight is the matrix (R, K) of its output channels along `axis`; scale and zero point are (1, 1), (R, 1) or
    (R, ⌈K / group⌉).
    """
    rows = shape[axis]
    width = math.prod(shape) // rows
    q = unpack_codes(codes, bits, rows * width).reshape(rows, width).to(torch.float32)
    zero: Tensor | int = 2 ** (bits - 1)
    if zero_point is not None:
        zero = spread(zero_point.to(torch.float32), width, group)
    matrix = spread(scale.to(torch.float32), width, group) * (q - zero)
    moved = [rows, *(size for dim, size in enumerate(shape) if dim != axis)]
    return matrix.reshape(moved).movedim(0, axis).contiguous()


@shape_of_result("unpack_weight")
def _(
    codes: Tensor,
    scale: Tensor,
    zero_point: Tensor | None,
    bits: int,
    shape: list[int],
    axis: int,
    group: int,
) -> Tensor:
    return scale.new_empty(shape, dtype=torch.float32)


@define(
    "expand_weight(Tensor codes, Tensor? multiples, int bits, int[] shape, int axis, int group) -> Tensor"
)
def expand_weight(
    codes: Tensor, multiples: Tensor | None, bits: int, shape: list[int], axis: int, group: int
) -> Tensor:
    """Packed codes (bytes,) uint8 to an int8 weight of `shape`: m · (q − 2^(bits−1)).

    The weight is the matrix (R, K) of its output channels along `axis`; `multiples` are packed codes of four bits, one
    for each `group` of its inputs, (R, K / group).
    """
    rows, number = shape[axis], math.prod(shape)
    q = unpack_codes(codes, bits, number).to(torch.int16) - 2 ** (bits - 1)
    if multiples is not None:
        q = (q.reshape(-1, group) * unpack_codes(multiples, MULTIPLE_BITS, number // group)[:, None]).reshape(
            -1
        )
    moved = [rows, *(size for dim, size in enumerate(shape) if dim != axis)]
    return q.to(torch.int8).reshape(moved).movedim(0, axis).contiguous()


@shape_of_result("expand_weight")
def _(codes: Tensor, multiples: Tensor | None, bits: int, shape: list[int], axis: int, group: int) -> Tensor:
    return codes.new_empty(shape, dtype=torch.int8)


def _of_each(flops: float) -> Callable[..., float]:
    return lambda *args, out, **kwargs: flops * math.prod(out)


# What they cost, for the counter: multiply-adds as the layers have them; rounding and scaling beside.
for _name in ("quantize", "dequantize", "dequantize_channels", "embed", "unpack_weight", "expand_weight"):
    register(f"tenfold::{_name}", other_flops=_of_each(2), integers=True)
for _name in ("dynamic_linear", "dynamic_conv"):
    register(
        f"tenfold::{_name}",
        macs=lambda x, weight, *rest, out, **kwargs: math.prod(out) * math.prod(weight[1:]),
        other_flops=lambda x, *rest, out, **kwargs: 4 * math.prod(x) + 2 * math.prod(out),
        integers=True,
    )
