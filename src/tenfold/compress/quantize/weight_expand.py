"""Packed weights as plain floats, for what cannot read codes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from tenfold.compress.quantize.capture import attribute, copied, rebuilt, set_buffer
from tenfold.compress.quantize.codes import pack_codes, unpack_codes
from tenfold.compress.quantize.stored import stored_weights
from tenfold.compress.quantize.weight_insert import UNPACK


def unpacked(model: nn.Module) -> nn.Module:
    """The same network with its packed weights as plain floats or int8: what computes fast where nothing reads codes."""
    if not isinstance(model, fx.GraphModule):
        return model
    model = copied(model)
    for node, stored in stored_weights(model):
        path = str(node.args[0].target).removesuffix("codes")  # type: ignore[union-attr]
        node.replace_all_uses_with(_constant(model, node, f"{path}weight", stored.values()))
    for node in list(_unpackings(model)):
        path = str(node.args[0].target).removesuffix("codes")  # type: ignore[union-attr]
        with torch.no_grad():
            weight = UNPACK(*(_value(model, each) for each in node.args))
        constant = _constant(model, node, f"{path}unpacked", weight)
        node.replace_all_uses_with(constant)
    return rebuilt(model)


@dataclass(frozen=True)
class CodedWeight:
    """A packed weight read: codes (R, K) uint8 of `bits` bits, scale and zero point (1, 1), (R, 1) or (R, ⌈K / group⌉).

    `zero_point` is None in the middle of the codes, uint8 where it is one of them, else float32. The weight has
    `shape`, its output channels along `axis`.
    """

    codes: Tensor
    bits: int
    scale: Tensor
    zero_point: Tensor | None
    group: int
    shape: tuple[int, ...]
    axis: int

    def values(self) -> Tensor:
        """The float32 weight."""
        packed = pack_codes(self.codes, self.bits)
        return torch.ops.tenfold.unpack_weight(
            packed, self.scale, self.zero_point, self.bits, list(self.shape), self.axis, self.group
        )


def coded_weights(model: fx.GraphModule) -> list[CodedWeight]:
    """Every packed weight of a network, in the order in which they are used."""
    found = []
    for node in _unpackings(model):
        codes, scale, zero, bits, shape, axis, group = (_value(model, each) for each in node.args)
        rows, number = shape[axis], math.prod(shape)
        unpacked_codes = unpack_codes(codes, bits, number).reshape(rows, number // rows)
        if zero is not None and zero.dtype != torch.uint8:
            zero = zero.float()
        found.append(CodedWeight(unpacked_codes, bits, scale.float(), zero, group, tuple(shape), axis))
    return found


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
