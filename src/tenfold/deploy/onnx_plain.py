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
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name


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
    blocks.Transposed: _transposed,
    blocks.Concatenated: _concatenated,
    blocks.Tokens: _tokens,
    blocks.MeanOfTokens: _mean_of_tokens,
}
