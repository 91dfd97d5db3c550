"""Weights of fewer bits than they are computed in, in an ONNX file: bytes, and the call that makes int8 of them.

ONNX has no tensors of 3, 5, 6 or 7 bits, but operators enough to unpack them: functions of the file's own, one for each
form. All that it reads is constant, so a runtime computes it when it loads the file and keeps what it
gives: ONNX Runtime does, at every level of optimisation but none, and takes the result into its integer kernels.
Until it has computed all it holds what every call gives: 13 bytes a weight of four bits, up to 30 of others in groups
(ONNX Runtime 1.31), some of which the process keeps.
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
OPSET = 21  # of multiples of 4 bits
BYTE = 8


@dataclass(frozen=True)
class _Form:
    """What an unpacking function does: `bits` a code, multiples or none, zeros at the end or none, a transposition or none."""

    bits: int
    grouped: bool
    cut: bool
    transposed: bool

    @property
    def name(self) -> str:
        return f"w{self.bits}{'g' * self.grouped}{'c' * self.cut}{'t' * self.transposed}"

    @property
    def shaped(self) -> bool:
        """Whether the values come in another shape than the weight's."""
        return self.grouped or self.bits != FOUR

    @property
    def inputs(self) -> list[str]:
        """Codes, multiples, the shape of groups, the number of codes, and the weight's shape, as far as it takes them."""
        planes = self.bits != FOUR
        return [
            "c",
            *["m"] * self.grouped,
            *["g"] * (self.grouped and planes),
            *["n"] * self.cut,
            *["s"] * self.shaped,
        ]


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
    for form, each in calls.items():
        function, worth = _function(form), [call for call in each if call.gain > 0]
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
    count, rows = weight.codes.numel(), len(weight.codes)
    by_input = (weight.axis != 0) != transposed  # the file's tensor, beside the codes (R, K)
    cut = weight.bits != FOUR and count % BYTE != 0
    form = _Form(weight.bits, weight.multiples is not None, cut, by_input)
    shape = list(tensor.dims)[::-1] if by_input else list(tensor.dims)
    codes, inputs = weight.codes.numpy(), dict[str, TensorProto]()
    grouped = None
    if weight.multiples is not None:
        grouped = [rows, weight.multiples.shape[1], weight.group]
        inputs["m"] = fours(weight.multiples.numpy()[:, :, None], TensorProto.UINT4)
    if weight.bits == FOUR:
        inputs["c"] = fours((codes ^ 2 ** (FOUR - 1)).reshape(grouped or shape), TensorProto.INT4)
    else:
        inputs["c"] = numpy_helper.from_array(planes(codes ^ 2 ** (weight.bits - 1), weight.bits))
        if grouped:
            inputs["g"] = numpy_helper.from_array(np.array(grouped, dtype=np.int64))
    if form.cut:
        inputs["n"] = numpy_helper.from_array(np.array([count], dtype=np.int64))
    if form.shaped:
        inputs["s"] = numpy_helper.from_array(np.array(shape, dtype=np.int64))
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


def fours(values: NDArray[np.uint8], data_type: int) -> TensorProto:
    """Numbers of four bits, for which ONNX has types."""
    flat = values.reshape(-1)
    flat = np.append(flat, np.zeros(len(flat) % 2, dtype=np.uint8))
    packed = (flat[::2] | (flat[1::2] << 4)).astype(np.uint8)
    return helper.make_tensor("", data_type, list(values.shape), packed.tobytes(), raw=True)


def _function(form: _Form) -> FunctionProto:
    """The function that makes a weight of its codes.

    Codes less 2^(bits − 1) lie in two's complement. Of `planes` eight shifts make bits, and a product with powers of two
    makes bytes of these, the last power being less by 2^bits modulo 256. Four bits are a type of their own. A
    runtime holds what every call gives until it has computed all, so that as few as can be give floats.
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

    value = "c"
    if form.bits != FOUR:
        places = np.arange(BYTE).reshape(-1, 1, 1)
        value = then("BitShift", value, constant("a", places, np.uint8), direction="RIGHT")
        value = then("BitwiseAnd", value, constant("b", [1], np.uint8))  # (8, bits, n / 8)
        powers = constant(
            "e", [[*(2**place for place in range(form.bits - 1)), 256 - 2 ** (form.bits - 1)]], np.uint8
        )
        one, zero = constant("f", 1.0, np.float32), constant("z", 0, np.uint8)
        value = then("QLinearMatMul", powers, one, zero, value, one, zero, one, zero)  # bytes (8, 1, n / 8)
        if form.cut:
            value = then("Reshape", value, constant("d", [-1], np.int64))
            value = then("Slice", value, constant("h", [0], np.int64), "n")
        value = then("Cast", value, to=TensorProto.INT8)
        if form.grouped:
            value = then("Reshape", value, "g")
    if form.grouped:
        value, factors = (then("Cast", each, to=TensorProto.FLOAT) for each in (value, "m"))
        value = then("Mul", value, factors)
    if form.grouped or form.bits == FOUR:
        value = then("Cast", value, to=TensorProto.INT8)
    if form.shaped:
        value = then("Reshape", value, "s")
    if form.transposed:
        value = then("Transpose", value)
    nodes[-1].output[0] = "w"
    return helper.make_function(
        DOMAIN, form.name, form.inputs, ["w"], nodes, [helper.make_opsetid("", OPSET)]
    )
