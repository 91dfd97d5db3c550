"""What each operator computes, from shapes alone: a registry of small formulas.

`macs` are the multiply-adds of convolutions, matrix products and attention; `other_flops` are the operations of
everything else, by these conventions: a pointwise function is 1 for each output element whatever the function, a
reduction 1 for each input element, a softmax 5 and a layer norm 8 for each element. What only moves data is 0. An
operator without a formula is reported by name and never taken for free.

A formula receives the operator's own arguments with every tensor replaced by its shape (a tuple), and `out`, the
shape of its first output. To register a custom operator takes one line:

    register("mylib::scan", other_flops=lambda x, *rest, out: 6 * prod(x))

Weights that a quantised operator receives packed are shapes too. `tenfold.cost.formulas` holds the formulas of whole
layers and networks, by which these are tested.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from math import log2, prod
from typing import Any

from tenfold.cost import operators

Shape = tuple[int, ...]
Formula = Callable[..., float]

MACS: dict[str, Formula] = {}
OTHER_FLOPS: dict[str, Formula] = {}
INTEGERS: set[str] = set()  # operators of quantised networks, named as in `OperatorCost.op`


def register(
    name: str | Any,
    *,
    macs: Formula | None = None,
    other_flops: Formula | None = None,
    integers: bool = False,
) -> None:
    """Give the operator `name` ("library::operator", or an operator of `torch.ops`) its formulas.

    A formula that is left out is 0, so an operator that computes nothing is registered with neither. `integers` says
    that only networks that are quantised to integers call it, whose layers a runtime computes by other kernels.
    """
    key = operator_name(name)
    MACS[key] = macs or _nothing
    OTHER_FLOPS[key] = other_flops or _nothing
    (INTEGERS.add if integers else INTEGERS.discard)(key.removeprefix("aten::"))
    formulas_of.cache_clear()


def is_of_integers(op: str) -> bool:
    """Whether only quantised networks call this operator (named as in `OperatorCost.op`): those of PyTorch's library
    `quantized` too.
    """
    return op in INTEGERS or op.startswith("quantized")


def operator_name(operator: Any) -> str:
    """`library::operator` of an operator of `torch.ops` (any overload), or of such a name itself."""
    if isinstance(operator, str):
        if operator.count("::") != 1:
            raise ValueError(f"an operator is named library::operator, not {operator!r}")
        return operator
    schema = getattr(operator, "_schema", None)
    if schema is not None:
        return str(schema.name)
    name = getattr(operator, "_qualified_op_name", None)  # an overload packet
    if name is not None:
        return str(name)
    return f"higher_order::{operator.name()}"  # flex_attention, cond and their like


@cache
def formulas_of(operator: Any) -> tuple[Formula, Formula] | None:
    """The formulas (macs, other_flops) of an operator, or None where nobody registered it."""
    for key in (operator_name(operator), _base_name(operator)):
        if key in MACS:
            return MACS[key], OTHER_FLOPS[key]
    if "pointwise" in _tags(operator):
        return _nothing, _per_output(1)
    if "reduction" in _tags(operator):
        return _nothing, _per_input(1)
    return None


@cache
def is_pointwise(operator: Any) -> bool:
    """Whether each output element depends on one element of each input alone, so that a runtime may fuse it."""
    name = _base_name(operator).removeprefix("aten::")
    return name in operators.POINTWISE or "pointwise" in _tags(operator)


@cache
def only_metadata(operator: Any) -> bool:
    """Whether it changes the shape or the strides of its argument in place and touches no data."""
    return "inplace_view" in _tags(operator)


def _base_name(operator: Any) -> str:
    """The name without the underscore of an in-place form: add_ computes what add does."""
    name = operator_name(operator)
    return name if name.endswith("__") else name.rstrip("_")


def _tags(operator: Any) -> set[str]:
    return {str(tag).rpartition(".")[2] for tag in getattr(operator, "tags", ())}


def _nothing(*args: Any, out: Shape, **kwargs: Any) -> float:
    return 0


def _per_output(flops: float) -> Formula:
    return lambda *args, out, **kwargs: flops * prod(out)


def _per_input(flops: float) -> Formula:
    return lambda x, *args, out, **kwargs: flops * prod(x)


def _register_all(
    names: Sequence[str], macs: Formula | None = None, other_flops: Formula | None = None
) -> None:
    for name in names:
        register(f"aten::{name}", macs=macs, other_flops=other_flops)


# ---- matrix products ------------------------------------------------------------------------------------------


def _mm(a: Shape, b: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """(…, n, k) × (…, k, m), also (k,) for either: n·k·m for each matrix."""
    return prod(out) * a[-1]


def _addmm(bias: Shape, a: Shape, b: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    return prod(out) * a[-1]


def _addbmm(bias: Shape, a: Shape, b: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """Σ over the batch of (n, k) × (k, m)."""
    return prod(a) * b[2]


def _grouped_mm(a: Shape, b: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """Rows (n, k) in groups × (g, k, m), or (g, n, k) × (g, k, m); (n, K) × (K, m) has K in groups."""
    return prod(a) * b[-1] if len(a) == len(b) == 2 else prod(out) * a[-1]


def _linear(x: Shape, weight: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    return prod(x) * prod(weight[:-1])


def _trilinear(
    a: Shape, b: Shape, c: Shape, expand_a: Any, expand_b: Any, expand_c: Any, *rest: Any, out: Shape, **kwargs: Any
) -> float:  # fmt: skip
    """nn.Bilinear, Σ a·b·c: two multiply-adds for each point of the space that the three are expanded to."""
    expanded = []
    for shape, dimensions in ((a, expand_a), (b, expand_b), (c, expand_c)):
        size = list(shape)
        for dimension in sorted(dimensions):
            size.insert(dimension, 1)
        expanded.append(size)
    return 2 * prod(max(sizes) for sizes in zip(*expanded, strict=True))


_register_all(["mm", "bmm", "mv", "dot", "vdot", "_int_mm", "_scaled_mm", "matmul"], _mm)
_register_all(["_weight_int8pack_mm", "_weight_int4pack_mm_for_cpu", "_dyn_quant_matmul_4bit"], _mm)
_register_all(["addmm", "baddbmm", "addmv", "_addmm_activation"], _addmm)
_register_all(["addbmm"], _addbmm)
_register_all(["linear", "mkldnn_linear"], _linear)
_register_all(["_grouped_mm", "_scaled_grouped_mm"], _grouped_mm)
_register_all(["_trilinear"], _trilinear)


# ---- convolutions ---------------------------------------------------------------------------------------------


def _convolution(
    x: Shape, weight: Shape, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool,
    *rest: Any, out: Shape, **kwargs: Any,
) -> float:  # fmt: skip
    return (_transposed_conv if transposed else _conv)(x, weight, out=out)


def _conv(x: Shape, weight: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """Weight (Cout, Cin/g, …k): each output element takes Cin/g·Πk multiply-adds."""
    return prod(out) * prod(weight[1:])


def _transposed_conv(x: Shape, weight: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """Weight (Cin, Cout/g, …k): each input element is spread over Cout/g·Πk."""
    return prod(x) * prod(weight[1:])


def _conv_tbc(x: Shape, weight: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """x (T, B, Cin), weight (k, Cin, Cout)."""
    return prod(out) * weight[0] * weight[1]


_register_all(["convolution", "_convolution", "convolution_overrideable"], _convolution)
_register_all(["conv1d", "conv2d", "conv3d", "_conv_depthwise2d", "conv_depthwise3d", "thnn_conv2d"], _conv)
_register_all(["slow_conv3d", "slow_conv_dilated2d", "slow_conv_dilated3d"], _conv)
_register_all(["cudnn_convolution", "mkldnn_convolution", "miopen_convolution"], _conv)
_register_all(["conv_transpose1d", "conv_transpose2d", "conv_transpose3d"], _transposed_conv)
_register_all(
    ["slow_conv_transpose2d", "slow_conv_transpose3d", "cudnn_convolution_transpose"], _transposed_conv
)
_register_all(["conv_tbc"], _conv_tbc)


# ---- attention: q (B, H, Lq, D), k (B, G, Lk, D), v (B, G, Lk, Dv); masked work is counted densely --------------


def _attention(q: Shape, k: Shape, v: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """QKᵀ and the product with V, for each query head, also where heads share keys (grouped queries)."""
    return prod(q[:-1]) * k[-2] * (q[-1] + v[-1])


def _attention_softmax(q: Shape, k: Shape, v: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """The softmax over the scores, and their scaling."""
    return (operators.SOFTMAX + 1) * prod(q[:-1]) * k[-2]


_register_all(
    [
        "scaled_dot_product_attention",
        "_scaled_dot_product_flash_attention",
        "_scaled_dot_product_flash_attention_for_cpu",
        "_scaled_dot_product_efficient_attention",
        "_scaled_dot_product_cudnn_attention",
        "_scaled_dot_product_attention_math",
        "_scaled_dot_product_attention_math_for_mps",
        "_scaled_dot_product_fused_attention_overrideable",
    ],
    _attention,
    _attention_softmax,
)
register("higher_order::flex_attention", macs=_attention, other_flops=_attention_softmax)


# ---- recurrent layers that a backend runs whole ---------------------------------------------------------------


def _rnn_layer(x: Shape, w_input: Shape, w_hidden: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """One LSTM layer and direction over x (T, B, I): every step multiplies by both weight matrices."""
    return prod(x[:-1]) * (prod(w_input) + prod(w_hidden))


def _rnn_gates(x: Shape, w_input: Shape, w_hidden: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """Four gate functions and five more pointwise steps for each hidden unit."""
    return 9 * prod(x[:-1]) * w_hidden[1]


def _quantized_rnn(x: Shape, hidden: Any, cells: Any, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """x (T, B, I) through packed cells (one a layer and direction), each with its matrices and biases."""
    return prod(x[:-1]) * sum(prod(shape) for cell in cells for shape in cell if len(shape) == 2)


def _quantized_rnn_gates(x: Shape, hidden: Any, cells: Any, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """About two operations for each row of each matrix: its gate function, and its part in the state."""
    return 2 * prod(x[:-1]) * sum(shape[0] for cell in cells for shape in cell if len(shape) == 2)


_register_all(["mkldnn_rnn_layer"], _rnn_layer, _rnn_gates)
_register_all(["quantized_lstm", "quantized_gru"], _quantized_rnn, _quantized_rnn_gates)


# ---- transforms, pooling, sorting, distances ------------------------------------------------------------------


def _fft(x: Shape, dimensions: Sequence[int], *rest: Any, out: Shape, **kwargs: Any) -> float:
    """5·n·log2 n for a complex transform of n points (the count of Cooley & Tukey 1965)."""
    sizes = x if prod(x) >= prod(out) else out
    return 5 * prod(sizes) * log2(max(2, prod(sizes[dimension] for dimension in dimensions)))


def _real_fft(x: Shape, dimensions: Sequence[int], *rest: Any, out: Shape, **kwargs: Any) -> float:
    return _fft(x, dimensions, out=out) / 2


def _pool(spatial: int) -> Formula:
    def formula(x: Shape, kernel: Any, *rest: Any, out: Shape, **kwargs: Any) -> float:
        """One operation for each element of each window."""
        sizes = tuple(kernel) if isinstance(kernel, (list, tuple)) else (kernel,)
        return prod(out) * (prod(sizes) if len(sizes) == spatial else sizes[0] ** spatial)

    return formula


def _sort(x: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    return prod(x) * log2(max(2, prod(x[-1:])))


def _embedding_bag(weight: Shape, indices: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    return prod(indices) * weight[1]


def _distances(a: Shape, b: Shape, *rest: Any, out: Shape, **kwargs: Any) -> float:
    """A difference, a square and a sum for each coordinate of each pair."""
    return 3 * prod(out) * a[-1]


_register_all(["_fft_c2c"], other_flops=_fft)
_register_all(["_fft_r2c", "_fft_c2r"], other_flops=_real_fft)
_register_all(["avg_pool1d", "max_pool1d"], other_flops=_pool(1))
_register_all(["avg_pool2d", "max_pool2d_with_indices", "max_pool2d"], other_flops=_pool(2))
_register_all(["avg_pool3d", "max_pool3d_with_indices"], other_flops=_pool(3))
_register_all(sorted(operators.SORTS), other_flops=_sort)
# A bias for each of three, and a scale for the queries.
register("aten::_transform_bias_rescale_qkv", other_flops=_per_output(4))
_register_all(["_nested_tensor_from_mask_left_aligned"])
_register_all(["_embedding_bag", "_embedding_bag_forward_only"], other_flops=_embedding_bag)
_register_all(["_cdist_forward", "_euclidean_dist"], other_flops=_distances)

_register_all(sorted(operators.MOVEMENT))
_register_all(sorted(operators.POINTWISE | operators.PER_OUTPUT), other_flops=_per_output(1))
_register_all(sorted(operators.REDUCTIONS), other_flops=_per_input(1))
for _name, _flops in operators.PER_INPUT.items():
    register(f"aten::{_name}", other_flops=_per_input(_flops))
for _name, _flops in operators.INTERPOLATION.items():
    register(f"aten::{_name}", other_flops=_per_output(_flops))

# ---- quantised operators --------------------------------------------------------------------------------------

for _name in ("linear", "linear_relu", "linear_dynamic", "linear_relu_dynamic", "linear_dynamic_fp16"):
    register(f"quantized::{_name}", macs=_linear)
for _name in ("conv1d", "conv2d", "conv3d", "conv1d_relu", "conv2d_relu", "conv3d_relu", "conv2d_add_relu"):
    register(f"quantized::{_name}", macs=_conv)
for _name in ("conv1d_dynamic", "conv2d_dynamic", "conv3d_dynamic", "conv2d_add"):
    register(f"quantized::{_name}", macs=_conv)
for _name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"):
    register(f"quantized::{_name}", macs=_transposed_conv)
register("quantized::matmul", macs=_mm)
for _name in (
    "add",
    "add_relu",
    "mul",
    "mul_relu",
    "hardswish",
    "leaky_relu",
    "elu",
    "sigmoid",
    "relu6",
    "celu",
):
    register(f"quantized::{_name}", other_flops=_per_output(1))
for _name in (
    "batch_norm",
    "batch_norm1d",
    "batch_norm2d",
    "batch_norm3d",
    "batch_norm2d_relu",
    "batch_norm3d_relu",
):
    register(f"quantized::{_name}", other_flops=_per_output(2))
for _name in ("layer_norm", "group_norm", "instance_norm"):
    register(f"quantized::{_name}", other_flops=_per_output(operators.FULL_NORM))
register("quantized::softmax", other_flops=_per_output(operators.SOFTMAX))
for _name in ("cat", "cat_relu"):
    register(f"quantized::{_name}")
_register_all(["quantize_per_tensor", "quantize_per_channel", "dequantize", "quantize_per_tensor_dynamic"],
              other_flops=_per_output(2))  # fmt: skip
# A rounding and a scale for each element.
for _name in (
    "quantize_per_tensor",
    "quantize_per_channel",
    "dequantize_per_tensor",
    "dequantize_per_channel",
):
    register(f"quantized_decomposed::{_name}", other_flops=_per_output(2))
