"""Weights of fewer bits than they are computed in, in an ONNX file: bytes, and the call that makes int8 of them.

ONNX has no tensors of 3, 5, 6 or 7 bits, but operators enough to unpack them: functions of the file's own, one for each
form. All that it reads is constant, so a runtime computes it when it loads the file and keeps what it
gives: ONNX Runtime does, at every level of optimisation but none, and takes the result into its integer kernels.
Until it has computed all it holds what every call gives: 17 bytes a weight of four bits and up to 32 of others (version
1.31), most of which the process keeps. ONNX's own types of four bits would not do, for ONNX Runtime casts them from
version 1.23 on alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import FunctionProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import fx, nn

from tenfold.compress.quantize import StoredWeight, stored_weights
from tenfold.deploy.onnx_codes import FOUR, require

DOMAIN = "tenfold"
OPSET = 18  # of BitwiseAnd
BYTE = 8


@dataclass(frozen=True)
class _Form:
    """What an unpacking function does: `bits` a code, multiples or none, a transposition or none.

    `cut` and `odd` tell whether zeros fill up the codes and the multiples.
    """

    bits: int
    grouped: bool
    cut: bool
    odd: bool
    transposed: bool

    @property
    def name(self) -> str:
        return f"w{self.bits}{'g' * self.grouped}{'c' * self.cut}{'o' * self.odd}{'t' * self.transposed}"

    @property
    def inputs(self) -> list[str]:
        """Codes and their number; multiples, their number and the shape of groups; the weight's shape: what it takes."""
        return ["c", *["n"] * self.cut, *["m"] * self.grouped, *["k"] * self.odd, *["g"] * self.grouped, "s"]


@dataclass(frozen=True)
class _Call:
    """The call that makes the values of an initialiser, and the constants that it reads."""

    tensor: TensorProto
    form: _Form
    node: NodeProto
    constants: list[TensorProto]

    @property
    def gain(self) -> int:
        """Bytes by which the file shrinks, the function of the form aside."""
        return self.tensor.ByteSize() - self.node.ByteSize() - sum(each.ByteSize() for each in self.constants)


def keep_stored(proto: ModelProto, model: nn.Module) -> int:
    """Replace the int8 weights of `proto` that `model` holds in fewer bits, in place; returns how many.

    `proto` is the export of `unpacked(model)`: weights are known again by their integers. Those stay int8 for which the
    file would grow: a call takes some hundred bytes, and so does the function of each form.
    """
    known: dict[tuple[tuple[int, ...], bytes], tuple[StoredWeight, bool]] = {}
    for _, weight in stored_weights(model) if isinstance(model, fx.GraphModule) else ():
        values = weight.values().numpy()
        known[values.shape, values.tobytes()] = weight, False
        if values.ndim == 2:
            known.setdefault((values.T.shape, np.ascontiguousarray(values.T).tobytes()), (weight, True))
    graph, calls = proto.graph, dict[_Form, list[_Call]]()
    for tensor in [t for t in graph.initializer if t.data_type == TensorProto.INT8 and len(t.dims) > 1]:
        found = known.get((tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes()))
        if found is not None:
            call = _call(tensor, *found, name=f"p{sum(map(len, calls.values()))}/")
            calls.setdefault(call.form, []).append(call)
    used: list[_Call] = []
    opset = max([OPSET, *(entry.version for entry in proto.opset_import if entry.domain == "")])
    for form, each in calls.items():
        function, worth = _function(form, opset), [call for call in each if call.gain > 0]
        if sum(call.gain for call in worth) > function.ByteSize():
            proto.functions.append(function)
            used += worth
    if used:
        for call in used:
            graph.initializer.remove(call.tensor)
            graph.initializer.extend(call.constants)
        nodes = [*(call.node for call in used), *graph.node]
        del graph.node[:]
        graph.node.extend(nodes)
        require(proto, "", OPSET)
        require(proto, DOMAIN, 1)
    return len(used)


def _call(tensor: TensorProto, weight: StoredWeight, transposed: bool, name: str) -> _Call:
    """The call that makes this initialiser's values."""
    codes, multiples = weight.codes.numpy(), weight.multiples
    by_input = (weight.axis != 0) != transposed  # the file's tensor, beside the codes (R, K)
    cut = codes.size % (2 if weight.bits == FOUR else BYTE) != 0
    odd = multiples is not None and multiples.numel() % 2 != 0
    form = _Form(weight.bits, multiples is not None, cut, odd, by_input)
    signed = codes ^ 2 ** (weight.bits - 1)  # less that, in two's complement of so many bits
    packed = halves(signed) if weight.bits == FOUR else planes(signed, weight.bits)
    shape = list(tensor.dims)[::-1] if by_input else list(tensor.dims)
    values: dict[str, NDArray[Any]] = {"c": packed, "n": np.array([codes.size]), "s": np.array(shape)}
    if multiples is not None:
        values |= {"m": halves(multiples.numpy()), "k": np.array([multiples.numel()])}
        values["g"] = np.array([*multiples.shape, -1])
    inputs = {leaf: numpy_helper.from_array(values[leaf]) for leaf in form.inputs}
    for leaf, value in inputs.items():
        value.name = f"{name}{leaf}"
    names = [inputs[leaf].name for leaf in form.inputs]
    node = helper.make_node(form.name, names, [tensor.name], domain=DOMAIN)
    return _Call(tensor, form, node, list(inputs.values()))


def planes(codes: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Codes as (bits, n / 8) bytes: byte k of plane b holds bit b of the codes k, k + n / 8, … k + 7 n / 8, lowest first.

    n is the number of codes, filled up to eight. So whole planes are shifted at once, which is many times as fast as
    shifting the bytes of a stream that holds one code after the other.
    """
    flat = codes.reshape(-1)
    eighths = np.append(flat, np.zeros(-len(flat) % BYTE, dtype=np.uint8)).reshape(BYTE, -1)
    each = (eighths[None] >> np.arange(bits, dtype=np.uint8)[:, None, None]) & 1
    return np.packbits(each, axis=1, bitorder="little")[:, 0]


def halves(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Numbers of four bits as bytes (n / 2): byte k holds number k, and number k + n / 2 above it; n is filled up to two."""
    flat = values.reshape(-1)
    low, high = np.append(flat, np.zeros(len(flat) % 2, dtype=np.uint8)).reshape(2, -1)
    return (low | (high << 4)).astype(np.uint8)


def _function(form: _Form, opset: int) -> FunctionProto:
    """The function that makes a weight of its codes, which lie in two's complement.

    Of `planes` eight shifts make bits, and a product with powers of two makes bytes of these, the last power being less
    by 2^bits modulo 256. Of `halves` two shifts make bytes that are sixteen times the codes. A runtime holds what every
    call gives until it has computed all, so that as few as can be give floats.
    """
    nodes: list[NodeProto] = []

    def constant(name: str, value: object, dtype: type) -> str:
        tensor = numpy_helper.from_array(np.asarray(value, dtype=dtype))
        nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        return name

    def then(operator: str, *inputs: str, **attributes: Any) -> str:
        made = f"v{len(nodes)}"
        nodes.append(helper.make_node(operator, list(inputs), [made], **attributes))
        return made

    def first(value: str, number: str) -> str:
        flat = then("Reshape", value, constant(f"d{number}", [-1], np.int64))
        return then("Slice", flat, constant(f"h{number}", [0], np.int64), number)

    scale = 1.0  # of the codes
    if form.bits == FOUR:
        value = then("BitShift", "c", constant("a", [[4], [0]], np.uint8), direction="LEFT")
        value = then("BitwiseAnd", value, constant("b", [240], np.uint8))  # (2, n / 2)
        scale = 1 / 16
    else:
        places = np.arange(BYTE).reshape(-1, 1, 1)
        value = then("BitShift", "c", constant("a", places, np.uint8), direction="RIGHT")
        value = then("BitwiseAnd", value, constant("b", [1], np.uint8))  # (8, bits, n / 8)
        powers = [2**place for place in range(form.bits - 1)] + [256 - 2 ** (form.bits - 1)]
        one, zero = constant("e", 1.0, np.float32), constant("z", 0, np.uint8)
        factors = constant("f", [powers], np.uint8)
        value = then("QLinearMatMul", factors, one, zero, value, one, zero, one, zero)  # (8, 1, n / 8)
    if form.cut:
        value = first(value, "n")
    value = then("Cast", value, to=TensorProto.INT8)
    if form.grouped:
        value = then("Reshape", value, "g")
        multiples = then("BitShift", "m", constant("i", [[0], [4]], np.uint8), direction="RIGHT")
        multiples = then("BitwiseAnd", multiples, constant("j", [15], np.uint8))
        if form.odd:
            multiples = first(multiples, "k")
        multiples = then("Cast", then("Reshape", multiples, "g"), to=TensorProto.FLOAT)
    if form.grouped or scale != 1:
        value = then("Cast", value, to=TensorProto.FLOAT)
        if scale != 1:
            small = constant("l", scale, np.float32)
            multiples = then("Mul", multiples, small) if form.grouped else small
        value = then("Cast", then("Mul", value, multiples), to=TensorProto.INT8)
    value = then("Reshape", value, "s")
    if form.transposed:
        value = then("Transpose", value)
    nodes[-1].output[0] = "w"
    return helper.make_function(
        DOMAIN, form.name, form.inputs, ["w"], nodes, [helper.make_opsetid("", opset)]
    )
