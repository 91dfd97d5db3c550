"""Which tensors become uint8, so that a runtime can run whole chains in integers and keep the rest in float.

The rule, for the QDQ form that ONNX Runtime fuses:
- a layer (convolution or linear) reads uint8; a convolution writes uint8, a linear layer only where a later layer
  reads its output unchanged, since its integer kernel can as well write float;
- sums, products of two tensors, concatenations, average pools and sigmoids run in integers where all that they read
  is at hand as integers and a layer wants their result; elsewhere (the residual stream of a transformer before its
  layer norm) they stay float, which is both more exact and no slower;
- what only moves values (reshape, transpose, max pool, padding with zeros) keeps the quantiser of its input;
- a ReLU or clamp after a call whose only reader it is takes its place: the clipping of uint8 does its work.
"""

from __future__ import annotations

from collections.abc import Iterator, Set
from dataclasses import dataclass, field

from torch import fx

from tenfold.compress.quantize.capture import is_float, operator, shape_of
from tenfold.compress.quantize.layers import Layer, find_layers

JOINS = {"add", "mul", "cat"}
UNARY = {"mean", "adaptive_avg_pool2d", "avg_pool2d", "sigmoid", "leaky_relu"}
CLAMPS = {"relu", "relu6", "hardtanh", "clamp", "clamp_min"}
MOVES = {
    "max_pool2d", "reshape", "view", "flatten", "permute", "transpose", "t", "squeeze", "unsqueeze", "clone",
    "contiguous", "channel_shuffle", "pixel_shuffle", "chunk", "split", "split_with_sizes", "slice", "unbind",
    "upsample_nearest2d",
}  # fmt: skip


@dataclass
class Plan:
    """`layers` to be run in integers; `tensors` to be quantised, each with the tensor whose quantiser it has.

    `integer` holds the joins and pools that read integers.
    """

    layers: list[Layer] = field(default_factory=list)
    tensors: dict[fx.Node, fx.Node] = field(default_factory=dict)
    integer: set[fx.Node] = field(default_factory=set)

    def reads_integers(self, reader: fx.Node, tensor: fx.Node) -> bool:
        """Does `reader` get the quantised `tensor`, or may it have the float where a float call made it?"""
        if any(layer.node is reader and layer.input is tensor for layer in self.layers):
            return True
        return reader in self.integer or (kind(reader) in ("move", "clamp") and reader in self.tensors)


def make_plan(graph: fx.Graph, floats: Set[fx.Node] = frozenset()) -> Plan:
    """The plan for a captured graph whose batch norms are folded; the layers of `floats` stay float."""
    layers = [layer for layer in find_layers(graph) if layer.node not in floats]
    by_node = {layer.node: layer for layer in layers}
    at_hand = _at_hand(graph, by_node)
    wanted = _wanted(graph, by_node, at_hand)
    integer = {node for node in graph.nodes if _runs_in_integers(node, wanted, at_hand)}

    plan = Plan(layers, integer=integer)
    for node in graph.nodes:
        if not is_float(node) or node.op == "get_attr":
            continue
        layer = by_node.get(node)
        written = layer is not None and (layer.is_convolution or node in wanted)
        read = any(node in reads(user, by_node) for user in node.users if user in by_node or user in integer)
        origin = source(node) if kind(node) in ("move", "clamp") and node in wanted else None
        moved = origin in plan.tensors
        if not (written or read or moved or node in integer):
            continue
        keeps = origin is not None and moved and kind(node) == "move"
        plan.tensors[node] = plan.tensors[origin] if keeps else node  # type: ignore[index]
    for node in list(plan.tensors):
        clamp = absorbing_clamp(node)
        if clamp is not None and (node in by_node or node in integer):
            plan.tensors[clamp] = clamp
            del plan.tensors[node]
    return plan


def kind(node: fx.Node) -> str:
    """ "join", "unary", "clamp", "move" or "other": how a call treats the values that it reads."""
    name = operator(node)
    if name in JOINS:
        return "join" if _joins_tensors(node) else "other"
    if name == "mean" or name == "adaptive_avg_pool2d":
        return "unary" if is_global_pool(node) else "other"
    if name in UNARY:
        return "unary"
    if name in CLAMPS and len(node.args) and _clamps_at_zero(node):
        return "clamp"
    if name in ("pad", "constant_pad_nd"):
        return "move" if _pads_with_zeros(node) else "other"
    if name in MOVES or getattr(node.target, "__name__", "") == "getitem":
        return "move"
    return "other"


def source(node: fx.Node) -> fx.Node | None:
    """The first tensor that a call reads; for an item of a split, what was split."""
    first = node.args[0] if node.args else None
    if isinstance(first, fx.Node) and not is_float(first) and operator(first) in MOVES:
        first = first.args[0]
    return first if isinstance(first, fx.Node) else None


def reads(node: fx.Node, layers: dict[fx.Node, Layer]) -> list[fx.Node]:
    """The tensors that this call would read as integers: a layer's input, or all of a join's."""
    if node in layers:
        return [layers[node].input]
    if kind(node) == "join" or kind(node) == "unary":
        return list(_tensor_arguments(node))
    return []


def absorbing_clamp(node: fx.Node) -> fx.Node | None:
    """The ReLU or clamp that is the only reader of `node`, if there is one."""
    if len(node.users) != 1:
        return None
    reader = next(iter(node.users))
    return reader if kind(reader) == "clamp" else None


def _at_hand(graph: fx.Graph, layers: dict[fx.Node, Layer]) -> set[fx.Node]:
    """The tensors that could be had as integers: made by a layer or read by one, or made of such alone."""
    found: set[fx.Node] = set()
    for node in graph.nodes:
        if not is_float(node) or node.op == "get_attr":
            continue
        read_by_layer = any(user in layers and layers[user].input is node for user in node.users)
        if node in layers or read_by_layer:
            found.add(node)
        elif kind(node) in ("move", "clamp"):
            if source(node) in found:
                found.add(node)
        elif kind(node) in ("join", "unary") and all(a in found for a in _tensor_arguments(node)):
            found.add(node)
    return found


def _wanted(graph: fx.Graph, layers: dict[fx.Node, Layer], at_hand: set[fx.Node]) -> set[fx.Node]:
    """The tensors that a layer reads, directly or through calls that can run in integers."""
    wanted: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        for user in node.users:
            through = user in wanted and (
                kind(user) in ("move", "clamp")
                or (kind(user) in ("join", "unary") and all(a in at_hand for a in _tensor_arguments(user)))
            )
            if through or (user in layers and layers[user].input is node):
                wanted.add(node)
    return wanted


def _runs_in_integers(node: fx.Node, wanted: set[fx.Node], at_hand: set[fx.Node]) -> bool:
    if kind(node) not in ("join", "unary") or node not in wanted:
        return False
    return all(argument in at_hand for argument in _tensor_arguments(node))


def _tensor_arguments(node: fx.Node) -> Iterator[fx.Node]:
    first = node.args[0]
    for value in first if isinstance(first, (list, tuple)) else (first, *node.args[1:2]):
        if isinstance(value, fx.Node):
            yield value


def _joins_tensors(node: fx.Node) -> bool:
    """A sum, product or concatenation of computed float tensors, without a factor."""
    first = node.args[0]
    operands = list(first) if isinstance(first, (list, tuple)) else list(node.args[:2])
    plain = not node.kwargs or node.kwargs.get("alpha", 1) == 1
    return bool(plain) and all(
        isinstance(o, fx.Node) and is_float(o) and o.op != "get_attr" for o in operands
    )


def is_global_pool(node: fx.Node) -> bool:
    """A mean over exactly the last two of four dimensions, kept or not."""
    operand = node.args[0]
    if not isinstance(operand, fx.Node) or len(shape_of(operand)) != 4:
        return False
    if operator(node) == "adaptive_avg_pool2d":
        size = node.args[1]
        return all(n == 1 for n in (size if isinstance(size, (list, tuple)) else [size]))
    axes = node.args[1] if len(node.args) > 1 else ()
    return isinstance(axes, (list, tuple)) and sorted(int(a) % 4 for a in axes) == [2, 3]  # type: ignore[arg-type]


def _pads_with_zeros(node: fx.Node) -> bool:
    """A constant padding of zeros, which every quantiser holds exactly."""
    given = [*node.args[2:], *node.kwargs.values()]
    return all(value in (None, 0, "constant") for value in given)


def _clamps_at_zero(node: fx.Node) -> bool:
    """A clamp whose lower bound is zero, so that uint8 clips as it does."""
    if operator(node) in ("relu", "relu6"):
        return True
    low, _ = clamp_bounds(node)
    return low == 0.0


def clamp_bounds(node: fx.Node) -> tuple[float | None, float | None]:
    """The bounds of a ReLU, ReLU6, hardtanh or clamp; None where it is open or computed."""
    name = operator(node)
    if name in ("relu", "relu6"):
        return 0.0, 6.0 if name == "relu6" else None
    keys = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
    defaults = (-1.0, 1.0) if name == "hardtanh" else (None, None)
    values = (
        node.args[position] if len(node.args) > position else node.kwargs.get(key, default)
        for position, key, default in zip((1, 2), keys, defaults, strict=True)
    )
    low, high = (float(v) if isinstance(v, (int, float)) else None for v in values)
    return low, high
