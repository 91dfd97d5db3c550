"""What the operators of a quantised network become in ONNX.

Static: QuantizeLinear and DequantizeLinear around float operators, which ONNX Runtime fuses into integer kernels.
Dynamic: DynamicQuantizeLinear (a symmetric range is found by ReduceMax and given to QuantizeLinear) with MatMulInteger
or ConvInteger, the result scaled back to float. ConvInteger takes only uint8 weights in ONNX Runtime, so they are stored with 128 added and a zero point of 128.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import onnx_ir as ir
import onnxscript
import torch

from tenfold.compress.quantize.ops import MIDDLE, SMALLEST_SCALE

UINT8_SHIFT = MIDDLE
op: Any = onnxscript.opset18  # untyped, since these calls are recorded, not run


def quantize(x: Any, scale: Any, zero_point: Any) -> Any:
    return op.QuantizeLinear(x, scale, zero_point)


def dequantize(q: Any, scale: Any, zero_point: Any) -> Any:
    return op.DequantizeLinear(q, scale, zero_point)


def dequantize_channels(q: Any, scale: Any, axis: int) -> Any:
    return op.DequantizeLinear(q, scale, axis=axis)


def quantized_at_run_time(x: Any, symmetric: bool) -> tuple[Any, Any, Any]:
    """uint8 codes of `x` over its own range, their scale and their zero point."""
    if not symmetric:
        q, scale, zero_point = op.DynamicQuantizeLinear(x)
        return q, scale, zero_point
    zero_point = op.Constant(value=ir.tensor(UINT8_SHIFT, dtype=ir.DataType.UINT8))
    largest = op.ReduceMax(op.Abs(x), keepdims=0)
    scale = op.Div(largest, op.Constant(value=ir.tensor(float(MIDDLE - 1), dtype=ir.DataType.FLOAT)))
    scale = op.Max(scale, op.Constant(value=ir.tensor(SMALLEST_SCALE, dtype=ir.DataType.FLOAT)))
    return op.QuantizeLinear(x, scale, zero_point), scale, zero_point


def dynamic_linear(x: Any, weight: Any, scale: Any, bias: Any = None, symmetric: bool = False) -> Any:
    q, input_scale, zero_point = quantized_at_run_time(x, symmetric)
    product = op.MatMulInteger(q, op.Transpose(weight, perm=[1, 0]), zero_point)
    y = op.Mul(op.Cast(product, to=ir.DataType.FLOAT), op.Mul(input_scale, scale))
    return y if bias is None else op.Add(y, bias)


def dynamic_conv(
    x: Any,
    weight: Any,
    scale: Any,
    bias: Any,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    symmetric: bool = False,
) -> Any:
    q, input_scale, zero_point = quantized_at_run_time(x, symmetric)
    shift = op.Constant(value=ir.tensor([UINT8_SHIFT], dtype=ir.DataType.INT32))
    shifted = op.Cast(op.Add(op.Cast(weight, to=ir.DataType.INT32), shift), to=ir.DataType.UINT8)
    product = op.ConvInteger(
        q,
        shifted,
        zero_point,
        op.Constant(value=ir.tensor(UINT8_SHIFT, dtype=ir.DataType.UINT8)),
        strides=list(stride),
        pads=[*padding, *padding],
        dilations=list(dilation),
        group=groups,
    )
    channels = op.Constant(value_ints=[1, -1, *[1] * len(stride)])
    y = op.Mul(op.Cast(product, to=ir.DataType.FLOAT), op.Mul(input_scale, op.Reshape(scale, channels)))
    return y if bias is None else op.Add(y, op.Reshape(bias, channels))


def embed(table: Any, scale: Any, indices: Any) -> Any:
    rows = op.Cast(op.Gather(table, indices), to=ir.DataType.FLOAT)
    last = op.Constant(value_ints=[-1])
    return op.Mul(rows, op.Unsqueeze(op.Gather(scale, indices), last))


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """The table for `torch.onnx.export(custom_translation_table=…)`."""
    ops = torch.ops.tenfold
    return {
        ops.quantize.default: quantize,
        ops.dequantize.default: dequantize,
        ops.dequantize_channels.default: dequantize_channels,
        ops.dynamic_linear.default: dynamic_linear,
        ops.dynamic_conv.default: dynamic_conv,
        ops.embed.default: embed,
    }
