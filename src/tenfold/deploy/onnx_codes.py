"""Packed weights kept as integers in an ONNX file: 4 bits a code where a code has no more, else 8.

A stored weight becomes DequantizeLinear of its codes with a scale for each output channel or each block of inputs, as
ONNX defines it from operator set 21 on. ONNX Runtime computes it at every call, before the layer: files become smaller,
and nothing becomes faster. For products with matrices in groups it has an operator that reads 4-bit codes itself,
com.microsoft MatMulNBits, which is used where it can be, computing in float32. Real-valued zero points have no ONNX
form; such weights become floats, which is warned of.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from torch import fx, nn

from tenfold.compress.quantize import CodedWeight, coded_weights
from tenfold.errors import TenfoldWarning

OPSET = 21  # of 4-bit tensors, and of scales for blocks
CONTRIB = "com.microsoft"
SMALLEST_BLOCK = 16  # that MatMulNBits takes; a power of two
EXACT = 1  # its accuracy level that computes in float32
FOUR = 4
IR_VERSION = 10  # the first with tensors of 4 bits


@dataclass(frozen=True)
class _Place:
    """An initialiser that holds a coded weight, as it is or transposed."""

    tensor: TensorProto
    weight: CodedWeight
    transposed: bool


def keep_codes(proto: ModelProto, model: nn.Module) -> int:
    """Replace the float weights of `proto` that `model` holds as codes, in place; returns how many.

    `proto` is the export of `unpacked(model)`: weights are known again by their values, to the last bit.
    """
    graph, places = proto.graph, _places(proto.graph, model)
    readers = {place.tensor.name: [n for n in graph.node if place.tensor.name in n.input] for place in places}
    first: list[NodeProto] = []
    for index, place in enumerate(places):
        name = f"w{index}/"
        product = _product(graph, place, readers[place.tensor.name])
        if product is not None:
            _read_by_product(graph, place, product, name)
        else:
            first.extend(_dequantized(graph, place, name))
        graph.initializer.remove(place.tensor)
    nodes = [*first, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    if places:
        require(proto, "", OPSET)
        if any(node.domain == CONTRIB for node in graph.node):
            require(proto, CONTRIB, 1)
        del graph.value_info[:]
    return len(places)


def _places(graph: GraphProto, model: nn.Module) -> list[_Place]:
    known: dict[tuple[tuple[int, ...], bytes], tuple[CodedWeight, bool]] = {}
    weights = list(coded_weights(model)) if isinstance(model, fx.GraphModule) else []
    real = [w for w in weights if w.zero_point is not None and w.zero_point.dtype != torch.uint8]
    if real:
        warnings.warn(
            f"{len(real)} of {len(weights)} packed weights have real zero points, for which ONNX has no form: they are floats "
            "in the ONNX file, and only the saved network is small; zero_point integer is small in both",
            TenfoldWarning,
            stacklevel=2,
        )
    for weight in weights:
        if any(weight is other for other in real):
            continue
        values = weight.values().numpy()
        known[values.shape, values.tobytes()] = (weight, False)
        if values.ndim == 2:
            known.setdefault((values.T.shape, np.ascontiguousarray(values.T).tobytes()), (weight, True))
    found = []
    for tensor in graph.initializer:
        key = (tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes()) if len(tensor.dims) > 1 else None
        if key in known:
            found.append(_Place(tensor, *known[key]))  # type: ignore[index]
    return found


def _product(graph: GraphProto, place: _Place, readers: list[NodeProto]) -> NodeProto | None:
    """The product that can read these codes itself, if there is one."""
    weight = place.weight
    block = weight.group
    if weight.bits != FOUR or len(readers) != 1 or block < SMALLEST_BLOCK or block & (block - 1):
        return None
    node = readers[0]
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] != place.tensor.name:
        return None
    flags = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    if flags.get("transA", 0) or flags.get("alpha", 1.0) != 1.0 or flags.get("beta", 1.0) != 1.0:
        return None
    # The codes are (outputs, inputs); the product wants them with inputs and outputs as in x @ w.
    stored_by_output = (weight.axis == 0) != place.transposed
    if stored_by_output != bool(flags.get("transB", 0)):
        return None
    constants = {tensor.name: tensor for tensor in graph.initializer}
    if len(node.input) > 2 and (node.input[2] not in constants or len(constants[node.input[2]].dims) != 1):
        return None
    return node


def _read_by_product(graph: GraphProto, place: _Place, node: NodeProto, name: str) -> None:
    weight = place.weight
    rows, width = weight.codes.shape
    blocks = -(-width // weight.group)
    # Short last blocks are filled up; MatMulNBits knows the true width.
    padded = np.full((rows, blocks * weight.group), 2 ** (FOUR - 1), dtype=np.uint8)
    padded[:, :width] = weight.codes.numpy()
    halves = padded.reshape(rows, blocks, weight.group // 2, 2)
    packed = halves[..., 0] | (halves[..., 1] << 4)
    inputs = [node.input[0], f"{name}q", f"{name}s"]
    graph.initializer.append(numpy_helper.from_array(packed, f"{name}q"))
    graph.initializer.append(numpy_helper.from_array(weight.scale.numpy().reshape(-1), f"{name}s"))
    if weight.zero_point is not None:
        zero = np.zeros((rows, -(-blocks // 2) * 2), dtype=np.uint8)
        zero[:, :blocks] = weight.zero_point.numpy()
        graph.initializer.append(
            numpy_helper.from_array((zero[:, ::2] | (zero[:, 1::2] << 4)).reshape(-1), f"{name}z")
        )
    inputs.append(f"{name}z" if weight.zero_point is not None else "")
    inputs += ["", node.input[2] if len(node.input) > 2 else ""]
    made = helper.make_node(
        "MatMulNBits", _without_end(inputs), list(node.output), domain=CONTRIB,
        K=width, N=rows, bits=FOUR, block_size=weight.group, accuracy_level=EXACT,
    )  # fmt: skip
    node.CopyFrom(made)


def _dequantized(graph: GraphProto, place: _Place, name: str) -> list[NodeProto]:
    """The calls that make the float weight under its old name."""
    weight, target = place.weight, place.tensor.name
    rows = len(weight.codes)
    codes, scale = weight.codes.numpy(), weight.scale.numpy()
    zero = np.full(scale.shape, 2 ** (weight.bits - 1), np.uint8) if weight.zero_point is None else weight.zero_point.numpy()  # fmt: skip
    attributes: dict[str, Any] = {}
    shape = list(place.tensor.dims)
    if scale.shape[1] > 1:
        attributes = {"axis": 1, "block_size": weight.group}
    elif rows > 1 and scale.shape[0] == rows:
        attributes, scale, zero = {"axis": 0}, scale[:, 0], zero[:, 0]
    else:
        scale, zero = scale.reshape(()), zero.reshape(())
    by_output = (weight.axis == 0) != place.transposed
    if len(shape) == 2 and not by_output:
        codes = codes.T
        scale, zero = (each.T if each.ndim == 2 else each for each in (scale, zero))
        if attributes:
            attributes["axis"] = 1 - attributes["axis"]
    data_type = TensorProto.UINT4 if weight.bits <= FOUR else TensorProto.UINT8
    direct = scale.ndim < 2 or len(shape) == 2  # else the groups go across the kernel's places
    graph.initializer.append(_integers(f"{name}q", codes.reshape(shape) if direct else codes, data_type))
    graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(scale), f"{name}s"))
    graph.initializer.append(_integers(f"{name}z", zero, data_type))
    made = target if direct else f"{name}m"
    nodes = [helper.make_node("DequantizeLinear", [f"{name}q", f"{name}s", f"{name}z"], [made], **attributes)]
    if not direct:
        graph.initializer.append(numpy_helper.from_array(np.array(shape, dtype=np.int64), f"{name}d"))
        nodes.append(helper.make_node("Reshape", [made, f"{name}d"], [target]))
    return nodes


def _integers(name: str, values: NDArray[np.uint8], data_type: int) -> TensorProto:
    flat: NDArray[Any] = np.ascontiguousarray(values).reshape(-1)
    if data_type == TensorProto.UINT4:
        flat = np.append(flat, np.zeros(len(flat) % 2, dtype=np.uint8))
        flat = (flat[::2] | (flat[1::2] << 4)).astype(np.uint8)
    return helper.make_tensor(name, data_type, list(values.shape), flat.tobytes(), raw=True)


def _without_end(names: list[str]) -> list[str]:
    while names and not names[-1]:
        names = names[:-1]
    return names


def require(proto: ModelProto, domain: str, version: int) -> None:
    """Say that the file needs an operator set of at least this version, and 4-bit tensors."""
    for entry in proto.opset_import:
        if entry.domain == domain:
            entry.version = max(entry.version, version)
            break
    else:
        proto.opset_import.append(helper.make_opsetid(domain, version))
    proto.ir_version = max(proto.ir_version, IR_VERSION)
