"""The captured form that both quantisation and export start from: constants computed, batch norm folded."""

from __future__ import annotations

import torch
from torch import fx, nn

from tenfold.compress.quantize.batch_norm import fold_batch_norms
from tenfold.compress.quantize.capture import capture, operator, rebuilt
from tenfold.compress.quantize.constants import fold_constants
from tenfold.compress.quantize.plan import is_global_pool
from tenfold.cost import Inputs


def capture_folded(model: nn.Module, inputs: Inputs) -> fx.GraphModule:
    """`capture(model, inputs)`, simplified without changing what it computes. Raises as `capture`."""
    module = capture(model, inputs)
    fold_constants(module)
    fold_batch_norms(module)
    use_global_pools(module.graph)
    return rebuilt(module)


def use_global_pools(graph: fx.Graph) -> None:
    """A mean over all of space becomes a global pool and a flattening, which have integer kernels."""
    for node in list(graph.nodes):
        if operator(node) != "mean" or not is_global_pool(node):
            continue
        keep = bool(node.args[2]) if len(node.args) > 2 else bool(node.kwargs.get("keepdim", False))
        with graph.inserting_before(node):
            pool = graph.call_function(torch.ops.aten.adaptive_avg_pool2d.default, (node.args[0], [1, 1]))
            value = node.meta["val"]
            pool.meta = dict(node.meta) | {"val": value if keep else value[..., None, None]}
            result = pool
            if not keep:
                result = graph.call_function(torch.ops.aten.flatten.using_ints, (pool, 1))
                result.meta = dict(node.meta)
        node.replace_all_uses_with(result)
        graph.erase_node(node)
