"""Zero padding before a quantised convolution becomes the convolution's own.

Networks that pad as TensorFlow does (more zeros at the end than at the start) keep a Pad of its own before each
such convolution. In float ONNX Runtime merges the two; between QuantizeLinear and DequantizeLinear it does not,
and runs the Pad in float. Zero is exact in every quantiser, so that padding commutes with quantisation.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper


def pad_in_convolutions(graph: GraphProto, readers: dict[str, int]) -> None:
    """Conv(DQ(Q(Pad(x)))) becomes Conv(DQ(Q(x))) with pads; where x is DQ(q) by the same quantiser, Conv(x).

    `readers` says how often each value is read.
    """
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for convolution in [node for node in graph.node if node.op_type == "Conv"]:
        dequantize = _maker(makers, convolution, "DequantizeLinear")
        quantize = _maker(makers, dequantize, "QuantizeLinear")
        pad = _maker(makers, quantize, "Pad")
        if dequantize is None or quantize is None or pad is None:
            continue
        if any(readers[node.output[0]] != 1 for node in (dequantize, quantize, pad)):
            continue
        zeros = zeros_around(pad, constants)
        if zeros is None or not _widen(convolution, zeros):
            continue
        quantize.input[0] = pad.input[0]
        graph.node.remove(pad)
        before = _maker(makers, quantize, "DequantizeLinear")
        if before is not None and _alike(before, quantize, constants):
            convolution.input[0] = quantize.input[0]
            graph.node.remove(dequantize)
            graph.node.remove(quantize)


def zeros_around(pad: NodeProto, constants: dict[str, TensorProto]) -> list[int] | None:
    """How many zeros a Pad puts before and after each dimension of space; None if it does anything else."""
    mode = next((a.s for a in pad.attribute if a.name == "mode"), b"constant")
    known = all(name in constants for name in pad.input[1:] if name)
    if mode != b"constant" or not known or (len(pad.input) > 3 and pad.input[3]):
        return None
    if len(pad.input) > 2 and pad.input[2] and numpy_helper.to_array(constants[pad.input[2]]).any():
        return None
    before, after = np.split(numpy_helper.to_array(constants[pad.input[1]]), 2)
    outside_space = [*before[:2], *after[:2]]
    if len(before) < 3 or any(outside_space) or min(*before, *after) < 0:
        return None
    return [int(n) for n in (*before[2:], *after[2:])]


def _widen(convolution: NodeProto, zeros: list[int]) -> bool:
    """Add to the convolution's pads; False where they are computed by a rule instead."""
    attributes = {a.name: a for a in convolution.attribute}
    if "auto_pad" in attributes and attributes["auto_pad"].s not in (b"NOTSET", b"VALID"):
        return False
    own = list(attributes["pads"].ints) if "pads" in attributes else [0] * len(zeros)
    for name in ("auto_pad", "pads"):
        if name in attributes:
            convolution.attribute.remove(attributes[name])
    sums = [a + b for a, b in zip(own, zeros, strict=True)]
    convolution.attribute.append(onnx.helper.make_attribute("pads", sums))
    return True


def _maker(makers: dict[str, NodeProto], reader: NodeProto | None, operator: str) -> NodeProto | None:
    """The call that makes the first input of `reader`, if it is one of this operator."""
    maker = None if reader is None else makers.get(reader.input[0])
    return maker if maker is not None and maker.op_type == operator else None


def _alike(one: NodeProto, other: NodeProto, constants: dict[str, TensorProto]) -> bool:
    """Do both calls have the same scale and zero point?"""
    if len(one.input) != len(other.input):
        return False
    for a, b in zip(one.input[1:], other.input[1:], strict=True):
        if a != b and not (a in constants and b in constants):
            return False
        if a != b and not np.array_equal(
            numpy_helper.to_array(constants[a]), numpy_helper.to_array(constants[b])
        ):
            return False
    return True
