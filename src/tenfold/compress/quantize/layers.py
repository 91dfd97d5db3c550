"""Which calls are layers with weights, and where in the call their input, weight and bias stand."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import fx

from tenfold.compress.quantize.capture import is_float, operator, shape_of
from tenfold.compress.quantize.naming import stable_names

CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}


@dataclass(frozen=True)
class Layer:
    """A convolution or a product with a constant matrix.

    `axis` is the dimension of the weight that holds output channels; `channel_dim` that of the output. `bias` is
    None where there is none; `input`, `weight` and `bias` are nodes of the graph that holds `node`.
    """

    node: fx.Node
    input: fx.Node
    weight: fx.Node
    bias: fx.Node | None
    axis: int
    channel_dim: int

    @property
    def is_convolution(self) -> bool:
        return operator(self.node) in CONVOLUTIONS


# Operator -> positions of (input, weight, bias or None), and the weight's output axis.
POSITIONS: dict[str, tuple[int, int, int | None, int]] = {
    "conv1d": (0, 1, 2, 0),
    "conv2d": (0, 1, 2, 0),
    "conv3d": (0, 1, 2, 0),
    "linear": (0, 1, 2, 0),
    "addmm": (1, 2, 0, 1),
    "matmul": (0, 1, None, 1),
    "mm": (0, 1, None, 1),
}


def layer_of(node: fx.Node) -> Layer | None:
    """The `Layer` that this call is, or None: another operator, or a weight that is not a constant float tensor."""
    positions = POSITIONS.get(operator(node))
    if positions is None:
        return None
    input_at, weight_at, bias_at, axis = positions
    source, weight = node.args[input_at], node.args[weight_at]
    bias = node.args[bias_at] if bias_at is not None and len(node.args) > bias_at else None
    if not (is_float(source) and _is_constant(weight) and (bias is None or _is_constant(bias))):
        return None
    if operator(node) == "addmm" and node.kwargs:
        return None
    assert isinstance(source, fx.Node)
    assert isinstance(weight, fx.Node)
    dims = len(shape_of(weight))
    if (operator(node) in CONVOLUTIONS) != (dims > 2) or dims < 2:
        return None
    if bias is not None and len(shape_of(bias)) != 1:  # type: ignore[arg-type]
        return None
    if operator(node) in CONVOLUTIONS and len(shape_of(source)) != dims:
        return None  # a convolution of one example without its batch dimension
    channel_dim = 1 if operator(node) in CONVOLUTIONS else -1
    return Layer(node, source, weight, bias, axis, channel_dim)  # type: ignore[arg-type]


def find_layers(graph: fx.Graph) -> list[Layer]:
    """Every layer of the graph, in the order in which they run."""
    return [layer for layer in map(layer_of, graph.nodes) if layer is not None]


def _readers(graph: fx.Graph) -> Counter[str]:
    """How many nodes read each constant."""
    readers: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "get_attr":
            readers[str(node.target)] += len(node.users)
    return readers


def unshared(graph: fx.Graph, layers: list[Layer]) -> dict[str, Layer]:
    """Those whose weight nothing else reads, by name, in the order in which they run."""
    names = stable_names(graph)
    readers = _readers(graph)
    return {names[layer.node]: layer for layer in layers if readers[str(layer.weight.target)] == 1}


def readable(graph: fx.Graph, layers: list[Layer]) -> dict[str, Layer]:
    """Those whose weight layers alone read, all along the same axis, by name, in the order in which they run."""
    names = stable_names(graph)
    readers = _readers(graph)
    for layer in layers:
        readers[str(layer.weight.target)] -= 1
    axes: dict[str, set[int]] = {}
    for layer in layers:
        axes.setdefault(str(layer.weight.target), set()).add(layer.axis)
    alike = {weight for weight, found in axes.items() if not readers[weight] and len(found) == 1}
    return {names[layer.node]: layer for layer in layers if str(layer.weight.target) in alike}


def leaders(layers: Mapping[str, Layer]) -> dict[str, str]:
    """For each layer by name the first that reads the same weight along the same axis: itself where none does."""
    first: dict[tuple[str, int], str] = {}
    return {
        name: first.setdefault((str(layer.weight.target), layer.axis), name) for name, layer in layers.items()
    }


def convolution_arguments(layer: Layer) -> tuple[list[int], list[int], list[int], int] | None:
    """Stride, padding, dilation and groups of a convolution, a number for each dimension of space.

    None where padding="same" needs one more zero at the end than at the start, which no such list can say.
    """
    kernel = shape_of(layer.weight)[2:]
    node = layer.node

    def given(position: int, name: str, default: int) -> Any:
        return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)

    def each(value: Any) -> list[int]:
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        return values * len(kernel) if len(values) == 1 else values

    stride, padding = each(given(3, "stride", 1)), given(4, "padding", 0)
    dilation, groups = each(given(5, "dilation", 1)), given(6, "groups", 1)
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        if any(t % 2 for t in total):
            return None
        padding = [t // 2 for t in total]
    return stride, each(0 if padding == "valid" else padding), dilation, groups


def _is_constant(value: object) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr" and is_float(value)
