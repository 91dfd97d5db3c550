"""Computing once what a network computes from its parameters alone, such as a standardised or reparametrised weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.capture import attribute, set_buffer
from tenfold.compress.quantize.naming import stable_names


def fold_constants(module: fx.GraphModule) -> int:
    """Replace calls that read only parameters and buffers by what they return; returns how many were stored.

    A result with more elements than what it is computed from (an expanded table) is left to be computed, for the
    file's sake.
    """
    graph = module.graph
    names = stable_names(graph)
    values: dict[fx.Node, Any] = {}
    sizes: dict[fx.Node, int] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            values[node] = attribute(module, str(node.target)).detach()
            sizes[node] = values[node].numel()
        elif _is_constant_call(node, values):
            with torch.no_grad():
                values[node] = node.target(
                    *fx.node.map_arg(node.args, values.__getitem__),
                    **fx.node.map_arg(node.kwargs, values.__getitem__),
                )
            sizes[node] = sum(sizes[source] for source in node.all_input_nodes)
    stored = 0
    for node, value in values.items():
        read_outside = any(user not in values for user in node.users)
        if (
            node.op == "get_attr"
            or not read_outside
            or not isinstance(value, Tensor)
            or value.numel() > sizes[node]
        ):
            continue
        path = f"computed.{names[node]}"
        set_buffer(module, path, value.clone())
        with graph.inserting_before(node):
            constant = graph.get_attr(path)
        constant.meta["val"] = value
        node.replace_all_uses_with(constant)
        stored += 1
    return stored


def _is_constant_call(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    """A call without randomness that reads at least one constant and nothing else."""
    if node.op != "call_function" or not node.all_input_nodes:
        return False
    tags = getattr(node.target, "tags", ())
    random = torch.Tag.nondeterministic_seeded in tags
    return not random and all(source in values for source in node.all_input_nodes)
