"""What ONNX Runtime launched for a graph, as its own profiler tells: every node as an operator, with its time.

The runtime has fused and laid out by then as it does in earnest, so that these are the kernels and not the graph's
nodes. A session profiles from its making until `end_profiling`, and runs as any other after that.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnxruntime import InferenceSession

from tenfold.cost import OperatorCost
from tenfold.cost.record import ATTENTION, DENSE, DEPTHWISE, MOVEMENT, NORM, POINTWISE, REDUCTION

Shape = tuple[int, ...]

# The runtime's operators by the name that PyTorch has for what they do. Views are not here: they touch no data.
NAMES = {
    "Gemm": "addmm", "FusedGemm": "addmm", "MatMul": "mm", "FusedMatMul": "mm", "Conv": "convolution",
    "FusedConv": "convolution", "NhwcFusedConv": "convolution", "MaxPool": "max_pool2d_with_indices",
    "AveragePool": "avg_pool2d", "GlobalAveragePool": "mean", "GlobalMaxPool": "amax", "ReduceMean": "mean",
    "ReduceSum": "sum", "ReduceMax": "amax", "ReduceL2": "norm", "ReorderInput": "reorder", "ReorderOutput": "reorder",
    "Transpose": "copy", "Slice": "slice_copy", "Split": "split_copy", "Expand": "expand_copy", "Tile": "repeat",
    "Cast": "_to_copy", "Softmax": "_softmax", "LogSoftmax": "_log_softmax", "LayerNormalization": "native_layer_norm",
    "SkipLayerNormalization": "native_layer_norm", "GroupNorm": "native_group_norm",
    "InstanceNormalization": "native_group_norm", "SimplifiedLayerNormalization": "rms_norm",
    "BatchNormalization": "native_batch_norm", "Gelu": "gelu", "BiasGelu": "gelu", "FastGelu": "gelu",
    "QuickGelu": "silu", "HardSwish": "hardswish", "HardSigmoid": "hardsigmoid", "Sigmoid": "sigmoid", "Tanh": "tanh",
    "Erf": "erf", "Exp": "exp", "Log": "log", "Pow": "pow", "Sqrt": "sqrt", "Softplus": "softplus", "Elu": "elu",
    "Mish": "mish", "Relu": "relu", "Clip": "clamp", "LeakyRelu": "leaky_relu", "PRelu": "prelu", "Add": "add",
    "Sub": "sub", "Mul": "mul", "Div": "div", "Neg": "neg", "Reciprocal": "reciprocal", "Concat": "cat",
    "Gather": "index_select", "GatherND": "gather", "GatherElements": "gather", "Resize": "upsample", "Pad": "pad",
    "MultiHeadAttention": "attention", "Attention": "attention", "Where": "where", "Sum": "add", "Max": "maximum",
    "Min": "minimum",
}  # fmt: skip
VIEWS = frozenset(
    {"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Shape", "Constant", "ConstantOfShape"}
)

_KINDS = {
    NORM: ("norm",),
    REDUCTION: ("softmax", "mean", "amax", "sum", "pool"),
    MOVEMENT: ("cat", "copy", "reorder", "index", "gather", "pad", "upsample", "repeat"),
}


def profiled_nodes(
    session: InferenceSession, run: Callable[[], Any], runs: int
) -> list[tuple[OperatorCost, float]]:
    """The kernels of one run, in order, each with its median seconds over `runs`; the first run only warms up.

    The session must have been made with profiling enabled, and must not have run before.
    """
    for _ in range(runs + 1):
        run()
    path = Path(session.end_profiling())
    events = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    kernels = [
        event for event in events
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
    ]  # fmt: skip
    each = len(kernels) // (runs + 1)
    passes = [kernels[each * number : each * (number + 1)] for number in range(1, runs + 1)]
    names = [[event["args"]["node_index"] for event in one] for one in passes]
    if not each or any(one != names[0] for one in names):
        return []  # a node that ran a varying number of times
    seconds = np.median([[1e-6 * event["dur"] for event in one] for one in passes], axis=0)
    operators = [operator_of(event["args"]) for event in passes[0]]
    return [
        (operator, float(time))
        for operator, time in zip(operators, seconds, strict=True)
        if operator is not None
    ]


def operator_of(node: Mapping[str, Any]) -> OperatorCost | None:
    """A node of the profile as an operator; None for a view."""
    name = str(node["op_name"])
    if name in VIEWS:
        return None
    inputs, outputs = _shapes(node["input_type_shape"]), _shapes(node["output_type_shape"])
    out = outputs[0] if outputs else ()
    op = NAMES.get(name, name.lower())
    macs = _macs(op, inputs, out)
    weights = int(node["parameter_size"])
    if op in ("addmm", "mm") and len([shape for shape in inputs if len(shape) > 1]) < 2:
        weights += (
            4 * _depth(inputs[0], out) * out[-1]
        )  # packed when the session was made, and no longer told of
    return OperatorCost(
        layer=str(node.get("node_index", "")),
        op=op,
        kind=_kind(op, macs, inputs),
        macs=macs,
        other_flops=prod(out) if op != "copy" else 0,
        weight_bytes=weights,
        bytes_read=weights + int(node["activation_size"]),
        bytes_written=int(node["output_size"]),
        output_shape=out,
        input_shapes=tuple(inputs),
    )


def _shapes(described: Iterable[Mapping[str, Sequence[int]]]) -> list[Shape]:
    return [tuple(shape) for tensor in described for shape in tensor.values()]


def _macs(op: str, inputs: Sequence[Shape], out: Shape) -> int:
    if op == "convolution":
        return prod(out) * prod(inputs[1][1:])
    if op in ("addmm", "mm"):
        return prod(out) * _depth(inputs[0], out)
    if op == "attention" and len(inputs) > 1:
        (batch, length, width), keys = inputs[0][:3], inputs[1][-2]
        return 2 * batch * length * keys * width
    return 0


def _depth(left: Shape, out: Shape) -> int:
    """What a product sums over; the left matrix may have a transposition fused into it."""
    transposed = len(left) > 1 and len(out) > 1 and left[-2] != out[-2]
    return left[-2] if transposed else left[-1]


def _kind(op: str, macs: int, inputs: Sequence[Shape]) -> str:
    if op == "attention":
        return ATTENTION
    if macs:
        return DEPTHWISE if op == "convolution" and inputs[1][1] == 1 and inputs[0][1] > 1 else DENSE
    return next((kind for kind, parts in _KINDS.items() if any(part in op for part in parts)), POINTWISE)
