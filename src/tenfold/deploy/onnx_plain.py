"""The networks of calibration as ONNX, written down directly in milliseconds: the exporter takes seconds for each.

The graph is what the exporter and `slim` make of the same layers, up to what the runtime folds by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from tenfold.cost import calibration_blocks as blocks

OPSET = 20
Emitter = Callable[["_Graph", nn.Module, str], str]


def plain_onnx(chain: nn.Sequential, shape: tuple[int, ...]) -> onnx.ModelProto | None:
    """The ONNX form of `chain` on inputs of `shape` (batch first), or None if it has a layer unknown here."""
    if not all(type(layer) in EMITTERS for layer in chain.modules()):
        return None
    graph = _Graph(len(shape))
    value = graph.emit(chain, "input")
    dimensions: list[str | int | None] = ["batch", *shape[1:]]
    made = helper.make_graph(
        graph.nodes,
        "chain",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, dimensions)],
        [helper.make_tensor_value_info(value, TensorProto.FLOAT, None)],
        graph.weights,
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


class _Graph:
    """Nodes and weights, each value with a fresh name."""

    def __init__(self, rank: int) -> None:
        self.flat = rank == 2  # whether the values are (batch, features)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []

    def weight(self, tensor: Tensor) -> str:
        """Store a constant; its name."""
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(tensor.detach().contiguous().numpy(), name))
        return name

    def emit(self, layer: nn.Module, x: str) -> str:
        """Write down a layer that reads the value `x`; the name of its output."""
        return EMITTERS[type(layer)](self, layer, x)

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Call an operator; the name of its output."""
        return self.nodes_of(operator, 1, *inputs, **attributes)[0]

    def nodes_of(self, operator: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """Call an operator of several outputs; their names."""
        names = [f"v{len(self.nodes)}.{number}" for number in range(outputs)]
        if outputs > 1:
            attributes["num_outputs"] = outputs
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names


def _convolution(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, nn.Conv2d)
    assert isinstance(layer.padding, tuple)
    bias = [graph.weight(layer.bias)] if layer.bias is not None else []
    return graph.node(
        "Conv", x, graph.weight(layer.weight), *bias,
        kernel_shape=list(layer.kernel_size), strides=list(layer.stride), group=layer.groups,
        pads=[*layer.padding, *layer.padding],
    )  # fmt: skip


def _linear(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, nn.Linear)
    if graph.flat:
        return graph.node("Gemm", x, graph.weight(layer.weight), graph.weight(layer.bias), transB=1)
    return graph.node("Add", graph.node("MatMul", x, graph.weight(layer.weight.T)), graph.weight(layer.bias))


def _pool(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, (nn.MaxPool2d, nn.AvgPool2d))
    # Calibration's poolings are square, so that one number describes each of these.
    kernel, stride, padding = (
        value if isinstance(value, int) else value[0]
        for value in (layer.kernel_size, layer.stride, layer.padding)
    )
    operator = "MaxPool" if isinstance(layer, nn.MaxPool2d) else "AveragePool"
    return graph.node(operator, x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[padding] * 4)


def _batch_norm(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, nn.BatchNorm2d)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    weights = (layer.weight, layer.bias, layer.running_mean, layer.running_var)
    return graph.node("BatchNormalization", x, *map(graph.weight, weights))


def _layer_norm(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, nn.LayerNorm)
    return graph.node("LayerNormalization", x, graph.weight(layer.weight), graph.weight(layer.bias), axis=-1)


def _relu6(graph: _Graph, layer: nn.Module, x: str) -> str:
    return graph.node("Clip", x, graph.weight(torch.tensor(0.0)), graph.weight(torch.tensor(6.0)))


def _silu(graph: _Graph, layer: nn.Module, x: str) -> str:
    return graph.node("Mul", x, graph.node("Sigmoid", x))


def _sequence(graph: _Graph, layer: nn.Module, x: str) -> str:
    for part in layer.children():
        x = graph.emit(part, x)
    return x


def _shortcut(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, blocks.Shortcut)
    y = graph.emit(layer.body, x)
    y = graph.node("Add", y, x if layer.shortcut is None else graph.emit(layer.shortcut, x))
    return y if layer.activation is None else graph.emit(layer.activation, y)


def _squeeze(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, blocks.SqueezeExcite)
    hidden = graph.node("Relu", graph.emit(layer.reduce, graph.node("GlobalAveragePool", x)))
    return graph.node("Mul", x, graph.emit(layer.gate, graph.emit(layer.expand, hidden)))


def _attention(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, blocks.SelfAttention)
    return _mixed(graph, layer.qkv, layer.out, layer.heads, x)


def _window_attention(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, blocks.WindowAttention)
    shape = graph.node("Shape", x)
    cut = graph.node("Reshape", x, graph.weight(torch.tensor([-1, layer.window, layer.out.in_features])))
    return graph.node("Reshape", _mixed(graph, layer.qkv, layer.out, layer.heads, cut, layer.bias), shape)


def _mixed(
    graph: _Graph, qkv: nn.Linear, out: nn.Linear, heads: int, x: str, bias: Tensor | None = None
) -> str:
    """As the exporter writes it: one projection, cut into queries, keys and values, and two products."""
    width = out.in_features
    cut = graph.weight(torch.tensor([0, 0, 3, heads, width // heads]))
    parts = graph.nodes_of("Split", 3, graph.node("Reshape", graph.emit(qkv, x), cut), axis=2)
    axis = graph.weight(torch.tensor([0]))
    q, k, v = (
        graph.node("Squeeze", graph.node("Transpose", part, perm=[2, 0, 3, 1, 4]), axis) for part in parts
    )
    scale = graph.weight(torch.tensor((width // heads) ** -0.25))
    scores = graph.node(
        "MatMul", graph.node("Mul", q, scale),
        graph.node("Mul", graph.node("Transpose", k, perm=[0, 1, 3, 2]), scale),
    )  # fmt: skip
    if bias is not None:
        scores = graph.node("Add", scores, graph.weight(bias))
    mixed = graph.node("MatMul", graph.node("Softmax", scores, axis=-1), v)
    joined = graph.weight(torch.tensor([0, 0, width]))
    flat = graph.node("Reshape", graph.node("Transpose", mixed, perm=[0, 2, 1, 3]), joined)
    return graph.emit(out, flat)


def _group_norm(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, nn.GroupNorm)
    groups = torch.tensor([0, layer.num_groups, -1])
    one, zero = (graph.weight(torch.full((layer.num_groups,), value)) for value in (1.0, 0.0))
    flat = graph.node("Reshape", x, graph.weight(groups))
    y = graph.node("InstanceNormalization", flat, one, zero, epsilon=layer.eps)
    y = graph.node("Reshape", y, graph.node("Shape", x))
    y = graph.node("Mul", y, graph.weight(layer.weight[:, None, None]))
    return graph.node("Add", y, graph.weight(layer.bias[:, None, None]))


def _scaled(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, blocks.Scaled)
    return graph.node("Mul", x, graph.weight(layer.scale))


def _moved(graph: _Graph, layer: nn.Module, x: str) -> str:
    y = x
    for axis in (2, 3):
        before, after = graph.nodes_of("Split", 2, y, axis=axis)
        # The exporter cuts what an odd side leaves over into the first half; rolled by half, so does this.
        y = graph.node("Concat", after, before, axis=axis)
    return graph.node("Concat", x, graph.node("Transpose", y, perm=[0, 1, 3, 2]), axis=1)


def _transposed(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, blocks.Transposed)
    if layer.dimensions == 3:
        there = back = [0, 2, 1]
    else:
        there, back = [0, 2, 3, 1], [0, 3, 1, 2]
    return graph.node("Transpose", graph.emit(layer.body, graph.node("Transpose", x, perm=there)), perm=back)


def _concatenated(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, blocks.Concatenated)
    return graph.node("Concat", x, graph.emit(layer.body, x), axis=1)


def _tokens(graph: _Graph, layer: nn.Module, x: str) -> str:
    assert isinstance(layer, blocks.Tokens)
    shape = graph.weight(torch.tensor([0, layer.place.shape[2], -1]))
    flat = graph.node("Transpose", graph.node("Reshape", x, shape), perm=[0, 2, 1])
    return graph.node("Add", flat, graph.weight(layer.place))


def _mean_of_tokens(graph: _Graph, layer: nn.Module, x: str) -> str:
    graph.flat = True
    return graph.node("ReduceMean", x, graph.weight(torch.tensor([1])), keepdims=0)


def _flatten(graph: _Graph, layer: nn.Module, x: str) -> str:
    graph.flat = True
    return graph.node("Flatten", x)


def _one(operator: str, **attributes: Any) -> Emitter:
    return lambda graph, layer, x: graph.node(operator, x, **attributes)


EMITTERS: dict[type[nn.Module], Emitter] = {
    nn.Conv2d: _convolution,
    nn.Linear: _linear,
    nn.MaxPool2d: _pool,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.ReLU: _one("Relu"),
    nn.ReLU6: _relu6,
    nn.SiLU: _silu,
    nn.GELU: _one("Gelu"),
    nn.Hardswish: _one("HardSwish"),
    nn.Softmax: _one("Softmax", axis=-1),
    nn.Sigmoid: _one("Sigmoid"),
    nn.Hardsigmoid: _one("HardSigmoid", alpha=1 / 6, beta=0.5),
    nn.AvgPool2d: _pool,
    nn.AdaptiveAvgPool2d: _one("GlobalAveragePool"),
    nn.Flatten: _flatten,
    nn.Sequential: _sequence,
    blocks.Shortcut: _shortcut,
    blocks.SqueezeExcite: _squeeze,
    nn.GroupNorm: _group_norm,
    blocks.Scaled: _scaled,
    blocks.Moved: _moved,
    blocks.SelfAttention: _attention,
    blocks.WindowAttention: _window_attention,
    blocks.Transposed: _transposed,
    blocks.Concatenated: _concatenated,
    blocks.Tokens: _tokens,
    blocks.MeanOfTokens: _mean_of_tokens,
}
