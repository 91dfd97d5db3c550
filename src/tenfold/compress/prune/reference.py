"""The reference for a narrowed network: the original one, with everything that was removed held at zero.

The traced graph runs with its full-size parameters; after each operator the positions that carry a removed atom
are set to zero. Zeros contribute nothing to convolutions, products and sums; operators that average over what
is left (layer norm, group norm, means) see only the positions that stay. It shares no code with `Narrowing`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from tenfold.compress.prune.atoms import Ids
from tenfold.compress.prune.functions import reduction
from tenfold.compress.prune.program import Program, arguments, named_tensors, operator_name
from tenfold.compress.prune.rules import RULES
from tenfold.compress.prune.ties import Value
from tenfold.cost import Inputs

REDUCTIONS = frozenset(name for name, rule in RULES.items() if rule is reduction)


class MaskedNetwork(Interpreter):
    """Runs the graph of `program` with the positions whose atom is not `alive` held at zero."""

    def __init__(
        self, program: Program, values: dict[Node, Any], alive: Callable[[Ids], NDArray[np.bool_]]
    ) -> None:
        super().__init__(program.module, garbage_collect_values=True)
        self.program = program
        self.values = values
        self.alive = alive

    @torch.no_grad()
    def answer(self, model: nn.Module, inputs: Inputs) -> tuple[Tensor, ...]:
        """The outputs with the parameters of `model` (which keeps its full size)."""
        tensors = named_tensors(model)
        given = self.program.bind(inputs)
        placeholders = []
        for node in self.program.nodes:
            if node.op != "placeholder":
                continue
            if node.name in self.program.tensors:
                placeholders.append(tensors[self.program.tensors[node.name]])
            elif node.name in self.program.constants:
                placeholders.append(self.program.constants[node.name])
            else:
                placeholders.append(given[node.name])
        return tuple(self.run(*placeholders, enable_io_processing=False))

    def run_node(self, n: Node) -> Any:
        if n.op != "call_function":
            return super().run_node(n)
        name = operator_name(n)
        with self._set_current_node(n):
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            if name in REDUCTIONS:
                result = self._reduction(n, args, kwargs)
            elif name in ("layer_norm", "rms_norm"):
                result = self._layer_norm(n, args)
            elif name == "group_norm":
                result = self._group_norm(n, args)
            else:
                result = self.call_function(n.target, args, kwargs)
        return self._masked(self.values.get(n), result)

    def _masked(self, value: Any, result: Any) -> Any:
        if isinstance(value, (list, tuple)) and isinstance(result, (list, tuple)):
            return [self._masked(v, r) for v, r in zip(value, result, strict=True)]
        if not isinstance(value, Value) or value.ids is None or not isinstance(result, Tensor):
            return result
        mask = self.alive(value.ids)
        if mask.all():
            return result
        return torch.where(torch.from_numpy(mask).to(result.device), result, torch.zeros_like(result))

    def _kept(self, node: Any, axis: int) -> Tensor | None:
        """The places along `axis` of a node's value that stay; None if all do."""
        value = self.values.get(node)
        if not isinstance(value, Value) or value.ids is None:
            return None
        axis %= len(value.shape)
        mask = self.alive(value.ids)
        if mask.shape[axis] == 1 or mask.all():
            return None
        return torch.from_numpy(mask.reshape(-1)).nonzero().squeeze(1)

    def _reduction(self, node: Node, args: Any, kwargs: Any) -> Any:
        """Reduce over the positions that stay."""
        tensor = args[0]
        dims = arguments(node).get("dim")
        listed = range(tensor.dim()) if dims in (None, []) else [dims] if isinstance(dims, int) else dims
        for axis in listed:
            kept = self._kept(node.args[0], axis)
            if kept is not None:
                tensor = tensor.index_select(axis, kept.to(tensor.device))
        return self.call_function(node.target, (tensor, *args[1:]), kwargs)  # type: ignore[arg-type]

    def _layer_norm(self, node: Node, args: Any) -> Tensor:
        """Statistics over the features that stay."""
        x, sizes, *vectors_and_rest = args
        kept = self._kept(node.args[0], -1) if len(sizes) == 1 else None
        if kept is None:
            return self.call_function(node.target, args, {})  # type: ignore[arg-type]
        kept = kept.to(x.device)
        rest = [v[kept] if isinstance(v, Tensor) else v for v in vectors_and_rest]
        result = torch.zeros_like(x)
        normed = self.call_function(node.target, (x[..., kept], [len(kept)], *rest), {})  # type: ignore[arg-type]
        result[..., kept] = normed
        return result

    def _group_norm(self, node: Node, args: Any) -> Tensor:
        """Statistics over the channels that stay: either whole groups go, or as many from each."""
        x, groups, *vectors_and_rest = args
        kept = self._kept(node.args[0], 1)
        if kept is None:
            return self.call_function(node.target, args, {})  # type: ignore[arg-type]
        kept = kept.to(x.device)
        per_group = torch.bincount(kept // (x.shape[1] // groups), minlength=groups)
        left = int((per_group > 0).sum())
        rest = [v[kept] if isinstance(v, Tensor) else v for v in vectors_and_rest]
        result = torch.zeros_like(x)
        result[:, kept] = self.call_function(node.target, (x[:, kept], left, *rest), {})  # type: ignore[arg-type]
        return result
