"""Packed weights as plain floats, for what cannot read codes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx, nn

from tenfold.compress.quantize.capture import attribute, rebuilt, set_buffer
from tenfold.compress.quantize.weight_insert import UNPACK


def unpacked(model: nn.Module) -> nn.Module:
    """The same network with its packed weights as plain floats: what computes fast where nothing reads codes."""
    if not isinstance(model, fx.GraphModule):
        return model
    model = copy.deepcopy(model)
    for node in list(_unpackings(model)):
        path = str(node.args[0].target).removesuffix("codes")  # type: ignore[union-attr]
        with torch.no_grad():
            weight = UNPACK(*(_value(model, each) for each in node.args))
        constant = _constant(model, node, f"{path}unpacked", weight)
        node.replace_all_uses_with(constant)
    return rebuilt(model)


def _unpackings(model: fx.GraphModule) -> Iterator[fx.Node]:
    return (node for node in model.graph.nodes if node.op == "call_function" and node.target is UNPACK)


def _value(model: fx.GraphModule, argument: object) -> Any:
    """What a node's argument is: the tensor of a constant, or the argument itself."""
    return attribute(model, str(argument.target)) if isinstance(argument, fx.Node) else argument


def _constant(model: fx.GraphModule, before: fx.Node, path: str, value: Tensor) -> fx.Node:
    set_buffer(model, path, value)
    with model.graph.inserting_before(before):
        constant = model.graph.get_attr(path)
    constant.meta["val"] = value
    return constant
