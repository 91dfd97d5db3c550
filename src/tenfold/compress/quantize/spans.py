"""A captured graph cut into stretches that are run one after the other, whatever stands in memory between them.

Between two spans only tensors live whose first dimension counts examples, so that the examples can be taken in parts
and drawn at random. A span is one layer with what follows it, or one block: a part of the network that repeats, such
as `layer1.0` or `encoder.layer.3`, told by the first numbers in the names of its modules.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.capture import attribute
from tenfold.compress.quantize.naming import module_path

Values = dict[fx.Node, Any]


class Unit(enum.Enum):
    """What is reconstructed at once: the output of each LAYER, or that of each BLOCK."""

    LAYER = "layer"
    BLOCK = "block"


@dataclass(frozen=True)
class Span:
    """Calls in order, the values from before that they read, and those that are read afterwards."""

    nodes: tuple[fx.Node, ...]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node, ...]

    def upto(self, node: fx.Node) -> Span:
        """The span as far as `node`, which alone is asked for."""
        nodes = self.nodes[: self.nodes.index(node) + 1]
        needed = {node}
        for call in reversed(nodes):
            if call in needed:
                needed.update(call.all_input_nodes)
        kept = tuple(call for call in nodes if call in needed)
        return Span(kept, tuple(each for each in self.inputs if each in needed), (node,))


def spans(
    graph: fx.Graph, layers: Iterable[fx.Node], unit: Unit, constant: Iterable[fx.Node] = ()
) -> list[Span]:
    """Every call of the graph in spans, in order; none begins where it may not. `constant` calls belong to none."""
    layers, constants = frozenset(layers), frozenset(constant)
    calls = [node for node in graph.nodes if node.op == "call_function" and node not in constants]
    place = {node: index for index, node in enumerate(calls)}
    last_read = {node: max((_read_at(user, place, len(calls)) for user in node.users), default=-1)
                 for node in graph.nodes if node.op == "placeholder" or node in place}  # fmt: skip

    def may_begin(index: int) -> bool:
        """Is all that lives before this call a value that examples can be taken from?"""
        return all(
            _streams(node)
            for node, last in last_read.items()
            if last >= index and (node.op == "placeholder" or place[node] < index)
        )

    starts, key = [0] if calls else [], ""
    for index, node in enumerate(calls):
        own = _block(node)
        begins = node in layers if unit is Unit.LAYER or not own else own != key
        if own:
            key = own
        if index and begins and may_begin(index):
            starts.append(index)
    made = []
    for start, stop in zip(starts, [*starts[1:], len(calls)], strict=True):
        nodes = calls[start:stop]
        inside = set(nodes)
        read = [each for node in nodes for each in node.all_input_nodes]
        inputs = [node for node in dict.fromkeys(read) if node in last_read and node not in inside]
        made.append(Span(tuple(nodes), tuple(inputs), tuple(n for n in nodes if last_read[n] >= stop)))
    return made


def compute(
    module: fx.GraphModule, span: Span, values: Mapping[fx.Node, Any], given: Mapping[fx.Node, Tensor]
) -> Values:
    """The outputs of a span for these values of its inputs; `given` stands in for constants (weights, biases)."""
    own: Values = {}

    def value(node: fx.Node) -> Any:
        for source in (own, given, values):
            if node in source:
                return source[node]
        return attribute(module, str(node.target))

    left = {node: sum(node in call.all_input_nodes for call in span.nodes) for node in span.nodes}
    kept = set(span.outputs)
    for node in span.nodes:
        own[node] = node.target(*fx.map_arg(node.args, value), **fx.map_arg(node.kwargs, value))  # type: ignore[operator]
        for source in node.all_input_nodes:
            if source in left:
                left[source] -= 1
                if not left[source] and source not in kept:
                    own.pop(source, None)
    return {node: own[node] for node in span.outputs}


def take(values: Mapping[fx.Node, Any], nodes: Sequence[fx.Node], examples: Tensor) -> Values:
    """The values of `nodes` for these examples (indices (n,)) alone."""
    return {node: _taken(node, values[node], examples) for node in nodes}


def joined(parts: Sequence[Values]) -> Values:
    """The values of parts one after the other; a number is made for all of them when it is taken."""
    return {
        node: torch.cat([part[node] for part in parts])
        if isinstance(value, Tensor) and _rows(node)
        else value
        for node, value in parts[0].items()
    }


def _taken(node: fx.Node, value: Any, examples: Tensor) -> Any:
    if isinstance(value, Tensor):
        rows = _rows(node)
        if not rows:
            return value
        return value.unflatten(0, (-1, rows))[examples].flatten(0, 1) if rows > 1 else value[examples]
    expression = _expression(node.meta.get("val"))
    if expression is None:
        return value
    return int(expression.subs({symbol: len(examples) for symbol in expression.free_symbols}))


def _read_at(user: fx.Node, place: Mapping[fx.Node, int], end: int) -> int:
    return place.get(user, end if user.op == "output" else -1)


def _block(node: fx.Node) -> str:
    """The name of the block that made this call: to the end of the first numbers in its path, else the whole path."""
    parts = module_path(node).split(".")
    numbers = [index for index, part in enumerate(parts) if part.isdigit()]
    if not numbers:
        return ".".join(parts)
    end = numbers[0]
    while end < len(parts) and parts[end].isdigit():
        end += 1
    if end == len(parts) and end - numbers[0] > 1:  # `blocks.3.0` is a layer of the block `blocks.3`
        end -= 1
    return ".".join(parts[:end])


def _streams(node: fx.Node) -> bool:
    """Is this a number, or a tensor that does not depend on the batch but in its first dimension?"""
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return _rows(node) is not None
    return isinstance(value, (int, float, bool)) or _expression(value) is not None


def _rows(node: fx.Node) -> int | None:
    """How many rows of the first dimension belong to each example: 0 for a tensor without a batch, None if none do."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor):
        return None
    sizes = [_expression(size) for size in value.shape]
    if not any(size is not None and size.free_symbols for size in sizes):
        return 0
    first, rest = sizes[0], sizes[1:]
    if first is None or any(size is not None and size.free_symbols for size in rest):
        return None
    one, two = (dict.fromkeys(first.free_symbols, number) for number in (1, 2))
    rows = int(first.subs(one))
    return rows if rows > 0 and int(first.subs(two)) == 2 * rows else None


def _expression(size: object) -> Any:
    """The expression of a symbolic number, None for a plain one."""
    return size.node.expr if isinstance(size, torch.SymInt) else None
