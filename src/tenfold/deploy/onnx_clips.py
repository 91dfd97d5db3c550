"""ReLUs and clamps after integer layers, written so that ONNX Runtime leaves these layers integer.

Before a QuantizeLinear with a zero point the codes are clipped instead of the floats.

Where the zero point is 0, uint8 clips as a ReLU does and none is left. Elsewhere ONNX Runtime would run the layer before
it in float, since it fuses only what QuantizeLinear reads directly. Rounding is monotone, so that it commutes with
clipping: Q(clip(x, a, b)) = clip(Q(x), Q(a), Q(b)), exactly.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

FUSED = {"Conv", "Gemm", "MatMul", "Add", "Mul", "Concat"}  # which have integer kernels
TOP = 255


def clip_codes(graph: GraphProto, readers: dict[str, int]) -> None:
    """QuantizeLinear(Relu(y)) or of Clip becomes Clip(QuantizeLinear(y)), where nothing else reads either.

    `readers` says how often each value is read.
    """
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    removed: set[str] = set()
    for node in graph.node:
        nodes.append(node)
        clamp = makers.get(node.input[0]) if node.op_type == "QuantizeLinear" else None
        bounds = None if clamp is None else _bounds(clamp, node, constants)
        if clamp is None or bounds is None or readers[clamp.output[0]] != 1 or readers[clamp.input[0]] != 1:
            continue
        before = makers.get(clamp.input[0])
        if before is None or before.op_type not in FUSED or constants.keys() & set(before.input[:2]):
            continue  # one that reads a constant as it is computes in float, and takes the clamp into itself
        result, names = node.output[0], [f"{node.output[0]}/low", f"{node.output[0]}/high"]
        for name, value in zip(names, bounds, strict=True):
            graph.initializer.append(numpy_helper.from_array(np.array(value, dtype=np.uint8), name))
        removed.add(clamp.output[0])
        node.input[0], node.output[0] = clamp.input[0], f"{result}/unclipped"
        nodes.append(helper.make_node("Clip", [node.output[0], *names], [result]))
    nodes = [node for node in nodes if not removed.intersection(node.output)]
    del graph.node[:]
    graph.node.extend(nodes)


def part_clamps(graph: GraphProto) -> None:
    """Relu or Clip of a Gemm over integers, read as float, becomes Max and Min.

    They mean the same, and ONNX Runtime (1.31, say) does not draw them into the Gemm. It does a Relu or Clip before it
    looks for integers, and dequantises the input and the weight for a float Gemm with that activation.
    """
    makers = {name: node for node in graph.node for name in node.output}
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type not in ("Relu", "Clip") or not _is_integer_gemm(makers.get(node.input[0]), makers):
            nodes.append(node)
            continue
        low, high = [*node.input[1:], "", ""][:2]
        if node.op_type == "Relu":
            low = f"{node.output[0]}/zero"
            graph.initializer.append(numpy_helper.from_array(np.array(0, dtype=np.float32), low))
        ends = [(kind, bound) for kind, bound in (("Max", low), ("Min", high)) if bound]
        value = node.input[0]
        for place, (kind, bound) in enumerate(ends, start=1):
            made = node.output[0] if place == len(ends) else f"{node.output[0]}/{kind}"
            nodes.append(helper.make_node(kind, [value, bound], [made]))
            value = made
        if not ends:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _is_integer_gemm(node: NodeProto | None, makers: dict[str, NodeProto]) -> bool:
    if node is None or node.op_type != "Gemm":
        return False
    read = [makers.get(name) for name in node.input[:2]]
    return all(maker is not None and maker.op_type == "DequantizeLinear" for maker in read)


def _bounds(
    clamp: NodeProto, quantizer: NodeProto, constants: dict[str, TensorProto]
) -> tuple[int, int] | None:
    """The codes of the bounds of a ReLU or clamp; None where it is neither, a bound is computed or zero is code 0."""
    if clamp.op_type not in ("Relu", "Clip") or len(quantizer.input) < 3:
        return None
    given = [name for name in (*clamp.input[1:], *quantizer.input[1:]) if name]
    if any(name not in constants for name in given):
        return None
    scale, zero = (numpy_helper.to_array(constants[name]) for name in quantizer.input[1:3])
    if zero.dtype != np.uint8 or zero.size != 1 or not zero.any():
        return None
    ends: list[int] = []
    for index, default in ((1, 0), (2, TOP)):
        name = clamp.input[index] if len(clamp.input) > index else ""
        if clamp.op_type == "Relu" and index == 1:
            ends.append(int(zero))
        elif name:
            bound = numpy_helper.to_array(constants[name]).astype(np.float32)
            ends.append(int(np.clip(np.rint(bound / scale) + int(zero), 0, TOP)))
        else:
            ends.append(default)
    return ends[0], ends[1]
