"""One walk over the exported graph, and walks until nothing more has to go together."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node
from torch.fx.node import map_arg

from tenfold.compress.prune import layers, movement  # noqa: F401  (importing layers registers its rules)
from tenfold.compress.prune.functions import pointwise
from tenfold.compress.prune.program import Program, operator_name, owner, words
from tenfold.compress.prune.rules import RULES
from tenfold.compress.prune.ties import Ties, Value

MOST_WALKS = 64
# Elementwise operators that PyTorch does not tag as such.
POINTWISE = words(
    "hardswish hardsigmoid hardtanh hardshrink softshrink mish softplus log_sigmoid celu selu elu relu relu6 rrelu"
    " leaky_relu silu gelu threshold where masked_fill clamp"
)


def tie(program: Program, tensors: Mapping[str, Tensor]) -> Walk:
    """Walk until nothing changes, let the open choices be made, and so on; the last walk."""
    ties = Ties()
    choose = False
    for _ in range(MOST_WALKS):
        ties.choose = choose
        ties.attributes.clear()
        ties.products.clear()
        ties.sums.clear()
        before = ties.atoms.joins
        walk = Walk(program, ties, tensors)
        walk.run()
        changed = ties.atoms.joins > before
        if not changed and choose:
            return walk
        choose = not changed
    raise AssertionError("joining atoms must end: every join lowers the number of sets")


class Walk:
    """Gives every node of the graph its `Value`."""

    def __init__(self, program: Program, ties: Ties, tensors: Mapping[str, Tensor]) -> None:
        self.program = program
        self.ties = ties
        self.tensors = tensors
        self.values: dict[Node, Any] = {}

    def value(self, node: Any) -> Value:
        """The value of a node with one result."""
        value = self.values[node]
        assert isinstance(value, Value)
        return value

    def run(self) -> None:
        """Walk all nodes in order."""
        for node in self.program.nodes:
            if node.op == "placeholder":
                self.values[node] = self._placeholder(node)
            elif node.op == "call_function":
                self.values[node] = self._settled(self._call(node))
            elif node.op == "output":
                self.ties.freeze_values(self._inputs(node))

    def _settled(self, value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return [self._settled(item) for item in value]
        if not isinstance(value, Value) or value.ids is None:
            return value
        self.ties.settle(value)
        return self.ties.simplified(value)

    def unknown(self, node: Node) -> Any:
        """An operator without a rule: nothing that enters it may go."""
        inputs = self._inputs(node)
        if any(value.ids is not None or value.name is not None for value in inputs):
            self.ties.note_unknown(node, str(node.target), owner(node))
        for value in inputs:
            if value.name is not None:
                for axis, dim in enumerate(value.axes):
                    self.ties.atoms.freeze(self.ties.dimension(value.name, dim, value.shape[axis]))
        self.ties.freeze_values(inputs)
        return self.constants(node)

    def constants(self, node: Node, *, pending: bool = False) -> Any:
        """Values of the node's results that nothing is tied to."""
        fake = node.meta.get("val")
        if isinstance(fake, (tuple, list)):
            return [
                Value(tuple(map(int, f.shape)), pending=pending) if isinstance(f, Tensor) else None
                for f in fake
            ]
        return Value(tuple(map(int, fake.shape)), pending=pending) if isinstance(fake, Tensor) else None

    def _inputs(self, node: Node) -> list[Value]:
        found: list[Value] = []
        for argument in node.all_input_nodes:
            found.extend(_flat(self.values[argument]))
        return found

    def _placeholder(self, node: Node) -> Value | None:
        fake = node.meta["val"]
        if not isinstance(fake, Tensor):
            return None
        shape = tuple(map(int, fake.shape))
        if node.name in self.program.constants:
            return Value(shape, concrete=self.program.constants[node.name])
        name = self.program.tensors.get(node.name)
        if name is None:
            return Value(shape)
        tensor = self.tensors[name]
        if not tensor.is_floating_point():
            return Value(shape, concrete=tensor.detach())
        return Value(shape, name=name, axes=tuple(range(len(shape))), learned=True)

    def _call(self, node: Node) -> Any:
        name = operator_name(node)
        if name == "getitem":
            container, index = node.args
            return self.values[container][index]  # type: ignore[index]
        inputs = self._inputs(node)
        if all(value.ids is None and value.name is None for value in inputs):
            return self._constant(node, inputs)
        if not isinstance(node.target, torch._ops.OpOverload):
            return self.unknown(node)
        if name in movement.IDENTITIES:
            return self.values[node.args[0]]  # type: ignore[index]
        if name in movement.MOVEMENTS:
            return movement.move(self.ties, node, self.value)
        if name in RULES:
            return RULES[name](self, node)
        if name in POINTWISE or torch.Tag.pointwise in node.target.tags:
            return pointwise(self, node)
        if name.startswith("_assert") or name.startswith("sym_"):
            return None
        return self.unknown(node)

    def _constant(self, node: Node, inputs: list[Value]) -> Any:
        """A result that no parameter enters; its numbers, where no input of the network enters either."""
        pending = any(value.pending for value in inputs)
        values = self.constants(node, pending=pending)
        if pending or not isinstance(values, Value) or any(value.concrete is None for value in inputs):
            return values
        arguments = (node.args, node.kwargs)
        args, kwargs = map_arg(arguments, lambda n: self.value(n).concrete)
        target: Any = node.target
        return Value(values.shape, concrete=target(*args, **kwargs))


def _flat(value: Any) -> list[Value]:
    if isinstance(value, Value):
        return [value]
    return [v for item in value for v in _flat(item)] if isinstance(value, (list, tuple)) else []
