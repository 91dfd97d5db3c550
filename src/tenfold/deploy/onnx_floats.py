"""Keeping layers float that stand between integers.

ONNX Runtime (1.31, say) rounds the float weight of a Conv, ConvTranspose or Gemm between DequantizeLinear and
QuantizeLinear to int8 by itself, with one scale for all of it, and runs the layer in integers: a layer that was left
float for its exactness would lose more than any other. It does so only where the input has a single scale. The same
scale written out for every channel means the same, takes the same time, and keeps the layer as it is. Calls that only
move values are no hindrance to it, since it moves DequantizeLinear past them: what they give is quantised again, which
changes nothing, and lets them move integers.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

MOVES = {"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Identity"}


def keep_floats(graph: GraphProto) -> None:
    """Give each float layer that reads DequantizeLinear one of its own, which ONNX Runtime does not fuse."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    nodes: list[NodeProto] = []
    for node in graph.node:
        weight = constants.get(node.input[1]) if node.op_type in ("Conv", "ConvTranspose", "Gemm") else None
        maker = None if weight is None else _first_maker(node.input[0], makers, constants)
        if maker is not None and weight is not None and _is_dequantised(maker, constants):
            made, name = f"{node.output[0]}/input", f"{node.output[0]}/kept"
            codes = maker.input[0]
            if makers[node.input[0]] is not maker:
                codes = f"{name}/moved"
                inputs = [node.input[0], *maker.input[1:]]
                nodes.append(helper.make_node("QuantizeLinear", inputs, [codes]))
            nodes.extend(_dequantized(graph, maker, codes, made, name, _channels(node, weight), constants))
            node.input[0] = made
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _first_maker(
    value: str, makers: dict[str, NodeProto], constants: dict[str, TensorProto]
) -> NodeProto | None:
    """The call that made this value before others moved it, None for an input or constant of the graph."""
    maker = makers.get(value)
    while maker is not None and _only_moves(maker, constants):
        maker = makers.get(maker.input[0])
    return maker


def _only_moves(node: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Does this call add no value that every quantiser of its input could not hold exactly?"""
    if node.op_type == "Pad" and len(node.input) > 2 and node.input[2]:
        given = constants.get(node.input[2])
        return given is not None and not numpy_helper.to_array(given).any()
    return node.op_type == "Pad" or node.op_type in MOVES


def _is_dequantised(maker: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Does this call dequantise by a constant scale and zero point?"""
    known = len(maker.input) == 3 and all(name in constants for name in maker.input[1:])
    return maker.op_type == "DequantizeLinear" and known


def _dequantized(
    graph: GraphProto,
    maker: NodeProto,
    codes: str,
    made: str,
    name: str,
    channels: int,
    constants: dict[str, TensorProto],
) -> list[NodeProto]:
    """The calls that dequantise `codes`, of so many channels, as `maker` does, under the name `made`."""
    scale, zero = (numpy_helper.to_array(constants[each]).reshape(-1)[:1] for each in maker.input[1:])
    scale_name, zero_name = f"{name}/scale", f"{name}/zero"
    if channels > 1:
        graph.initializer.append(numpy_helper.from_array(np.repeat(scale, channels), scale_name))
        graph.initializer.append(numpy_helper.from_array(np.repeat(zero, channels), zero_name))
        inputs = [codes, scale_name, zero_name]
        return [helper.make_node("DequantizeLinear", inputs, [made], axis=1)]
    # A vector of one is as good as a single scale, so for one channel the arithmetic itself is written.
    graph.initializer.append(numpy_helper.from_array(scale[0], scale_name))
    graph.initializer.append(numpy_helper.from_array(zero[0].astype(np.float32), zero_name))
    return [
        helper.make_node("Cast", [codes], [f"{name}/codes"], to=TensorProto.FLOAT),
        helper.make_node("Sub", [f"{name}/codes", zero_name], [f"{name}/steps"]),
        helper.make_node("Mul", [f"{name}/steps", scale_name], [made]),
    ]


def _channels(node: NodeProto, weight: TensorProto) -> int:
    """How many channels the layer reads, the second dimension of its input."""
    attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if node.op_type == "Conv":
        return int(weight.dims[1]) * int(attributes.get("group", 1))
    return int(weight.dims[1 if attributes.get("transB", 0) else 0])
