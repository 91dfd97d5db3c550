"""Putting packed weights into a captured graph: codes, scales and zero points, and the call that unpacks them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.capture import attribute, set_buffer
from tenfold.compress.quantize.codes import pack_codes, packed_bytes
from tenfold.compress.quantize.grid import Granularity, Grid, PerGroup, ZeroPoint, scale_shape, stored_type
from tenfold.compress.quantize.insert import ROOT, can_have_bias, set_bias
from tenfold.compress.quantize.layers import Layer

UNPACK = torch.ops.tenfold.unpack_weight.default


@dataclass(frozen=True)
class Form:
    """What is stored of a layer's weight: its bits, and how scales and zero points are shared."""

    bits: int
    granularity: Granularity
    zero_point: ZeroPoint


@dataclass(frozen=True)
class PackedWeight:
    """A weight of a quantised network: the name of its packed codes, how many there are, of how many bits."""

    codes: str
    bits: int
    rows: int
    width: int


def insert_packed(
    module: fx.GraphModule, layer: Layer, name: str, form: Form, add_bias: bool
) -> tuple[str, fx.Node]:
    """Give the layer a packed weight of zeros in this form, and with `add_bias` a bias of its own.

    Returns its path, and the call that unpacks it.
    `store` fills it. The float weight stays in the module until `rebuilt` drops what nothing reads.
    """
    path, weight = f"{ROOT}.{name}", attribute(module, str(layer.weight.target))
    shape = list(weight.shape)
    rows, width = shape[layer.axis], weight.numel() // shape[layer.axis]
    scales = scale_shape(form.granularity, rows, width)
    dtype = stored_type(form.granularity)
    set_buffer(
        module, f"{path}.codes", weight.new_zeros(packed_bytes(rows * width, form.bits), dtype=torch.uint8)
    )
    set_buffer(module, f"{path}.scale", weight.new_zeros(scales, dtype=dtype))
    leaves = ["codes", "scale"]
    if form.zero_point is not ZeroPoint.SYMMETRIC:
        zero_type = torch.uint8 if form.zero_point is ZeroPoint.INTEGER else dtype
        set_buffer(module, f"{path}.zero_point", weight.new_zeros(scales, dtype=zero_type))
        leaves.append("zero_point")
    group = form.granularity.size if isinstance(form.granularity, PerGroup) else 0
    with module.graph.inserting_before(layer.node):
        stored = [module.graph.get_attr(f"{path}.{leaf}") for leaf in leaves]
        for constant in stored:
            constant.meta["val"] = attribute(module, str(constant.target))
        zero = stored[2] if len(stored) > 2 else None
        call = module.graph.call_function(
            UNPACK, (stored[0], stored[1], zero, form.bits, shape, layer.axis, group)
        )
        call.meta["val"] = weight.detach()
    layer.node.replace_input_with(layer.weight, call)
    if add_bias:
        insert_bias(module, layer, path)
    return path, call


def insert_bias(module: fx.GraphModule, layer: Layer, path: str) -> None:
    """Give the layer a bias of its own at `path`, with the values it had or zeros, where its call may have one."""
    if layer.bias is None and not can_have_bias(layer):
        return
    weight = attribute(module, str(layer.weight.target))
    old = None if layer.bias is None else attribute(module, str(layer.bias.target)).detach()
    set_buffer(
        module, f"{path}.bias", weight.new_zeros(weight.shape[layer.axis]) if old is None else old.clone()
    )
    with module.graph.inserting_before(layer.node):
        bias = module.graph.get_attr(f"{path}.bias")
        bias.meta["val"] = attribute(module, f"{path}.bias")
    set_bias(layer, bias)


def store(module: fx.GraphModule, path: str, grid: Grid, codes: Tensor) -> None:
    """Fill the packed weight at `path`. codes (R, K)."""
    owner = module.get_submodule(path)
    attribute(owner, "codes").copy_(pack_codes(codes, grid.bits))
    attribute(owner, "scale").copy_(grid.scale)
    if hasattr(owner, "zero_point"):
        attribute(owner, "zero_point").copy_(grid.zero_point)


def packed_weights(model: torch.nn.Module) -> list[PackedWeight]:
    """The packed weights of a network, in the order in which they are used; none for a network without."""
    if not isinstance(model, fx.GraphModule):
        return []
    found = []
    for node in model.graph.nodes:
        if node.op == "call_function" and node.target is UNPACK:
            codes, _, _, bits, shape, axis, _ = node.args
            count = 1
            for size in shape:  # type: ignore[union-attr]
                count *= int(size)  # type: ignore[arg-type]
            rows = int(shape[axis])  # type: ignore[index, arg-type]
            found.append(PackedWeight(str(codes.target), int(bits), rows, count // rows))  # type: ignore[union-attr, arg-type]
    return found
