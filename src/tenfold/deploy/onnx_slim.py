"""Making an ONNX file small without changing what it computes: fold constants, share them, drop names and defaults.

The exporter writes for people who debug it: stack traces, scopes, long names, every default. None of that is
needed to run, and on a small INT8 network it would weigh as much as the weights.
"""

from __future__ import annotations

import itertools
import string
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from tenfold.deploy.onnx_clips import clip_codes, part_clamps
from tenfold.deploy.onnx_floats import keep_floats
from tenfold.deploy.onnx_padding import pad_in_convolutions

FOLDABLE = {"Transpose", "Cast", "Add", "Mul", "Reshape", "Squeeze", "Unsqueeze", "Identity"}
ALPHABET = string.ascii_letters + string.digits


def slim(model: ModelProto) -> None:
    """Run every pass on `model`, in place. Names of graph inputs are kept; outputs become output, output_1, …"""
    graph = model.graph
    inline_constants(graph)
    transpose_before_dequantize(graph)
    fold_constants(model)
    pad_in_convolutions(graph, readers_of(graph))
    clip_codes(graph, readers_of(graph))
    part_clamps(graph)
    keep_floats(graph)
    give_gemms_zero_points(graph)
    drop_zero_biases(graph)
    use_global_pools(graph)
    drop_identities(graph)
    drop_defaults(model)
    share_initializers(graph)
    drop_unused(graph)
    strip_metadata(model)
    shorten_names(graph)


def inline_constants(graph: GraphProto) -> None:
    """Constant nodes become initialisers."""
    for node in [n for n in graph.node if n.op_type == "Constant"]:
        attribute = node.attribute[0]
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(value)
        elif attribute.name in ("value_int", "value_ints"):
            tensor = numpy_helper.from_array(np.asarray(value, dtype=np.int64))
        elif attribute.name in ("value_float", "value_floats"):
            tensor = numpy_helper.from_array(np.asarray(value, dtype=np.float32))
        else:
            continue
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def transpose_before_dequantize(graph: GraphProto) -> None:
    """Transpose(DequantizeLinear(w)) of a stored matrix becomes DequantizeLinear of the transposed integers."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers = readers_of(graph)
    for node in list(graph.node):
        if node.op_type != "Transpose" or node.input[0] not in makers:
            continue
        maker = makers[node.input[0]]
        if maker.op_type != "DequantizeLinear" or maker.input[0] not in constants:
            continue
        tensor = constants[maker.input[0]]
        if len(tensor.dims) != 2 or readers[maker.output[0]] != 1 or readers[tensor.name] != 1:
            continue
        replace_tensor(tensor, numpy_helper.to_array(tensor).T)
        for attribute in maker.attribute:
            if attribute.name == "axis":
                attribute.i = 1 - attribute.i % 2
        maker.output[0] = node.output[0]
        graph.node.remove(node)


def fold_constants(model: ModelProto) -> None:
    """Compute the cheap calls that read only constants; never a dequantisation, whose integers are the point."""
    from onnx.reference import ReferenceEvaluator

    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in list(graph.node):
        names = [name for name in node.input if name]
        if node.op_type not in FOLDABLE or not names or any(name not in constants for name in names):
            continue
        lone = onnx.helper.make_graph(
            [node],
            "fold",
            [
                onnx.helper.make_tensor_value_info(n, constants[n].data_type, None)
                for n in dict.fromkeys(names)
            ],
            [onnx.ValueInfoProto(name=node.output[0])],
        )
        program = onnx.helper.make_model(lone, opset_imports=model.opset_import)
        feeds = {name: numpy_helper.to_array(constants[name]) for name in names}
        (value,) = ReferenceEvaluator(program).run(None, feeds)
        tensor = numpy_helper.from_array(np.ascontiguousarray(value).reshape(np.shape(value)), node.output[0])
        graph.initializer.append(tensor)
        constants[tensor.name] = tensor
        graph.node.remove(node)


def give_gemms_zero_points(graph: GraphProto) -> None:
    """ONNX Runtime fuses a Gemm only if its weight's zero point is written out, though zero is the default."""
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        maker = makers.get(node.input[1]) if node.op_type == "Gemm" else None
        if maker is None or maker.op_type != "DequantizeLinear" or len(maker.input) != 2:
            continue
        zeros = np.zeros(tuple(constants[maker.input[1]].dims), dtype=np.int8)
        tensor = numpy_helper.from_array(zeros, f"{maker.output[0]}/zero")
        graph.initializer.append(tensor)
        maker.input.append(tensor.name)


def drop_zero_biases(graph: GraphProto) -> None:
    """The exporter gives a convolution without bias one of zeros."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Conv", "Gemm") and len(node.input) == 3:
            bias = constants.get(node.input[2])
            if bias is not None and not numpy_helper.to_array(bias).any():
                del node.input[2]


def use_global_pools(graph: GraphProto) -> None:
    """ReduceMean over the last two of four dimensions, kept, is GlobalAveragePool, which has an integer kernel."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    ranks = {info.name: len(info.type.tensor_type.shape.dim) for info in graph.value_info}
    for node in graph.node:
        if node.op_type != "ReduceMean" or len(node.input) != 2 or node.input[1] not in constants:
            continue
        keep = all(a.i for a in node.attribute if a.name == "keepdims")
        axes = sorted(int(a) % 4 for a in numpy_helper.to_array(constants[node.input[1]]).ravel())
        if keep and axes == [2, 3] and ranks.get(node.input[0]) == 4:
            node.op_type = "GlobalAveragePool"
            del node.input[1]
            del node.attribute[:]


def drop_identities(graph: GraphProto) -> None:
    """Readers of an Identity read what it reads."""
    outputs = {value.name for value in graph.output}
    for node in [n for n in graph.node if n.op_type == "Identity" and n.output[0] not in outputs]:
        for reader in graph.node:
            for index, name in enumerate(reader.input):
                if name == node.output[0]:
                    reader.input[index] = node.input[0]
        graph.node.remove(node)


def drop_defaults(model: ModelProto) -> None:
    """Attributes that say what their absence says."""
    version = next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx"))
    for node in model.graph.node:
        kept = [a for a in node.attribute if not _is_default(node, a, version)]
        if len(kept) < len(node.attribute):
            del node.attribute[:]
            node.attribute.extend(kept)


def _is_default(node: NodeProto, attribute: onnx.AttributeProto, version: int) -> bool:
    value = onnx.helper.get_attribute_value(attribute)
    if node.op_type in ("Conv", "ConvInteger"):
        if attribute.name == "kernel_shape":
            return True  # the weight says it
        if attribute.name in ("strides", "dilations") and set(value) <= {1}:
            return True
        if attribute.name == "pads" and set(value) <= {0}:
            return True
    if node.domain not in ("", "ai.onnx"):
        return False
    known = onnx.defs.get_schema(node.op_type, version).attributes.get(attribute.name)
    if known is None or not known.default_value.type:
        return False
    return bool(onnx.helper.get_attribute_value(known.default_value) == value)


def share_initializers(graph: GraphProto) -> None:
    """One initialiser for all that are equal in type, shape and bytes."""
    first: dict[tuple[int, tuple[int, ...], bytes], str] = {}
    renamed: dict[str, str] = {}
    for tensor in list(graph.initializer):
        key = (tensor.data_type, tuple(tensor.dims), numpy_helper.to_array(tensor).tobytes())
        if key in first:
            renamed[tensor.name] = first[key]
            graph.initializer.remove(tensor)
        else:
            first[key] = tensor.name
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in renamed:
                node.input[index] = renamed[name]


def drop_unused(graph: GraphProto) -> None:
    """Calls and initialisers that no output needs."""
    needed = {value.name for value in graph.output}
    for node in reversed(list(graph.node)):
        if needed.isdisjoint(node.output):
            graph.node.remove(node)
        else:
            needed.update(name for each in nodes_within(node) for name in each.input)
    for tensor in [t for t in graph.initializer if t.name not in needed]:
        graph.initializer.remove(tensor)


def strip_metadata(model: ModelProto) -> None:
    """Names of calls, documentation, traces and inferred shapes: no runtime reads them."""
    graph = model.graph
    model.doc_string, model.producer_version, model.domain = "", "", ""
    graph.name, graph.doc_string = "g", ""
    del model.metadata_props[:], graph.metadata_props[:], graph.value_info[:]
    for node in graph.node:
        for each in nodes_within(node):
            each.name, each.doc_string = "", ""
            each.ClearField("overload")
            del each.metadata_props[:]
    for tensor in graph.initializer:
        tensor.doc_string = ""
        del tensor.metadata_props[:]
    for value in [*graph.input, *graph.output]:
        value.doc_string = ""
        del value.metadata_props[:]


def shorten_names(graph: GraphProto) -> None:
    """Values get names of one or two letters, the most used first; the batch dimension is called batch."""
    kept = {value.name for value in graph.input}
    counts: Counter[str] = Counter()
    for outer in graph.node:
        for node in nodes_within(outer):
            counts.update([*node.input, *node.output])
    renamed = {name: name for name in kept}
    for index, value in enumerate(graph.output):
        if value.name not in renamed:
            renamed[value.name] = f"output_{index}" if index else "output"
    inner = {name for node in graph.node for sub in subgraphs(node) for name in _declared(sub)}
    taken = {*renamed.values(), *inner}
    fresh = (name for name in short_names() if name not in taken)
    for name, _ in counts.most_common():
        if name and name not in renamed and name not in inner:
            renamed[name] = next(fresh)
    for outer in graph.node:
        for node in nodes_within(outer):
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = renamed.get(name, name)
    for tensor in graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    for value in graph.output:
        value.name = renamed[value.name]
    _name_batch(graph)


def _name_batch(graph: GraphProto) -> None:
    """Call the symbol of the first input's first dimension `batch`, and leave other computed sizes unnamed."""
    batch = graph.input[0].type.tensor_type.shape.dim[0].dim_param if graph.input else ""
    for value in [*graph.input, *graph.output]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param:
                is_batch = dim.dim_param == batch
                dim.Clear()
                if is_batch:
                    dim.dim_param = "batch"


def short_names() -> Iterator[str]:
    """a, b, …, 9, aa, ab, …"""
    for length in itertools.count(1):
        for letters in itertools.product(ALPHABET, repeat=length):
            yield "".join(letters)


def readers_of(graph: GraphProto) -> dict[str, int]:
    """How often each value is read, outputs of the graph included."""
    counts: dict[str, int] = defaultdict(int)
    for outer in graph.node:
        for node in nodes_within(outer):
            for name in node.input:
                counts[name] += 1
    for value in graph.output:
        counts[value.name] += 1
    return counts


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The bodies of an If, Loop or Scan, and theirs."""
    for attribute in node.attribute:
        for graph in [attribute.g, *attribute.graphs] if attribute.type in (5, 10) else ():
            yield graph
            for inner in graph.node:
                yield from subgraphs(inner)


def nodes_within(node: NodeProto) -> Iterator[NodeProto]:
    """The call itself, and every call in its bodies."""
    yield node
    for graph in subgraphs(node):
        yield from graph.node


def _declared(graph: GraphProto) -> Iterator[str]:
    yield from (value.name for value in [*graph.input, *graph.output])
    yield from (tensor.name for tensor in graph.initializer)
    yield from (name for node in graph.node for name in node.output)


def replace_tensor(tensor: TensorProto, value: np.ndarray) -> None:
    """Give an initialiser another value, under its name."""
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(value), tensor.name))
