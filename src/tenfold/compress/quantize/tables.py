"""Embedding tables in int8: a scale for each row. The rows that are looked up become float again, the table never.

In small encoders the table of the vocabulary is most of the file; what is computed with its rows stays as it was.
"""

from __future__ import annotations

from collections import Counter

import torch
from torch import fx

from tenfold.compress.quantize.affine import round_weight, weight_scales
from tenfold.compress.quantize.capture import attribute, is_float, operator, rebuilt, set_buffer, shape_of
from tenfold.errors import RecipeError

BITS = 8


def find_tables(graph: fx.Graph) -> dict[str, fx.Node]:
    """The look-ups in a constant float32 table (V, D) that nothing else reads, by the name of the table."""
    readers: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op == "get_attr":
            readers[str(node.target)] += len(node.users)
    found = {}
    for node in graph.nodes:
        table = node.args[0] if operator(node) == "embedding" else None
        if not isinstance(table, fx.Node) or table.op != "get_attr" or not is_float(table):
            continue
        if len(shape_of(table)) == 2 and readers[str(table.target)] == 1:
            found[str(table.target)] = node
    return found


def insert_tables(
    module: fx.GraphModule, root: str, wanted: list[str] | None = None
) -> tuple[fx.GraphModule, list[str]]:
    """The module with integers below `root` in the place of every table, or of those `wanted`; and their names.

    Raises `RecipeError` where the network has no such table.
    """
    found, graph = find_tables(module.graph), module.graph
    for name in wanted or ():
        if name not in found:
            raise RecipeError(f"quantize: made for another network; it has no table {name}")
    names = list(found) if wanted is None else wanted
    for name in names:
        node, weight = found[name], attribute(module, name).detach()
        scale = weight_scales(weight, 0, BITS)
        values = {"table": round_weight(weight, scale, 0, BITS), "table_scale": scale}
        with graph.inserting_before(node):
            constants = []
            for leaf, value in values.items():
                set_buffer(module, f"{root}.{name}.{leaf}", value)
                constants.append(graph.get_attr(f"{root}.{name}.{leaf}"))
                constants[-1].meta["val"] = value
            call = graph.call_function(torch.ops.tenfold.embed.default, (*constants, node.args[1]))
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.erase_node(node)
    return (rebuilt(module) if names else module), names
