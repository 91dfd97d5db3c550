"""Rewriting a captured float graph so that it holds integers and computes as an integer runtime does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tenfold.compress.quantize import affine
from tenfold.compress.quantize.affine import Affine
from tenfold.compress.quantize.capture import attribute, operator, rebuilt, set_buffer, shape_of
from tenfold.compress.quantize.grid import PerChannel, PerTensor, ZeroPoint
from tenfold.compress.quantize.layers import Layer, convolution_arguments, layer_of, leaders
from tenfold.compress.quantize.ops import LEVELS
from tenfold.compress.quantize.plan import Plan, clamp_bounds, kind
from tenfold.compress.quantized import ROOT

OPS = torch.ops.tenfold


@dataclass(frozen=True)
class IntegerForm:
    """How layers are quantised: the bits and scales of weights, and where the zero of activations lies.

    With `add_bias` a layer without a bias gets one of zeros, for a correction.
    """

    bits: int
    granularity: PerChannel | PerTensor
    activations: ZeroPoint
    add_bias: bool


def insert_static(
    module: fx.GraphModule,
    plan: Plan,
    names: dict[fx.Node, str],
    affines: Mapping[str, Affine],
    form: IntegerForm,
    scales: Mapping[str, Tensor],
) -> tuple[fx.GraphModule, dict[str, str]]:
    """Quantise and dequantise every tensor of the plan, and every weight and bias.

    `affines` holds the quantiser of each tensor of the plan by name, `scales` those of weights that have theirs, by
    the first layer that reads them. Returns the module, and for each layer's name
    the node that now computes it.
    """
    graph = module.graph
    layers = {names[layer.node]: layer for layer in plan.layers}
    first = leaders(layers)
    for leader in dict.fromkeys(first.values()):
        tied = {name: layers[name] for name in layers if first[name] == leader}
        inputs = [affines[names[plan.tensors[layer.input]]].scale for layer in tied.values()]
        _quantize_weights(module, tied, form, inputs, scales.get(leader))
    for node, keeper in plan.tensors.items():
        path = f"{ROOT}.{names[keeper]}"
        if keeper is node:
            quantiser = affines[names[node]]
            set_buffer(module, f"{path}.scale", torch.tensor(quantiser.scale))
            set_buffer(module, f"{path}.zero_point", torch.tensor(quantiser.zero_point, dtype=torch.uint8))
        with graph.inserting_before(_place_after(node)):
            scale_node, zero_node = _constants(module, path, "scale", "zero_point")
            q = _call(graph, OPS.quantize.default, node, scale_node, zero_node)
            dq = _call(graph, OPS.dequantize.default, q, scale_node, zero_node)
        computed_in_float = kind(node) == "other" and all(layer.node is not node for layer in plan.layers)
        for user in list(node.users):
            if user is not q and (not computed_in_float or plan.reads_integers(user, node)):
                user.replace_input_with(node, dq)
    for node, keeper in plan.tensors.items():
        if keeper is node and _is_idle(node, affines[names[node]]):
            node.replace_all_uses_with(node.args[0])  # type: ignore[arg-type]
            graph.erase_node(node)
    return _finished(module, plan, names)


def insert_dynamic(
    module: fx.GraphModule,
    plan: Plan,
    names: dict[fx.Node, str],
    form: IntegerForm,
    scales: Mapping[str, Tensor],
) -> tuple[fx.GraphModule, dict[str, str]]:
    """Replace each layer by the operator that quantises its input when it runs. Returns as `insert_static`."""
    graph = module.graph
    computed: dict[str, str] = {}
    first = leaders({names[layer.node]: layer for layer in plan.layers})
    for planned in plan.layers:
        layer = layer_of(planned.node)  # again, since its input may be a layer that has been replaced
        assert layer is not None
        node, name = layer.node, names[layer.node]
        path = f"{ROOT}.{name}"
        weight, bias = _values(module, layer, form.add_bias)
        if first[name] == name:
            scale = scales.get(name)
            if scale is None:
                scale = affine.weight_scales(weight, layer.axis, form.bits, granularity=form.granularity)
            integers = affine.round_weight(weight, scale, layer.axis, form.bits)
            set_buffer(module, f"{path}.weight", integers if layer.axis == 0 else integers.t().contiguous())
            set_buffer(module, f"{path}.weight_scale", scale)
        with graph.inserting_before(node):
            constants = _constants(module, f"{ROOT}.{first[name]}", "weight", "weight_scale")
            bias_node: fx.Node | None = None
            if bias is not None:
                set_buffer(module, f"{path}.bias", bias)
                (bias_node,) = _constants(module, path, "bias")
            target: Any = OPS.dynamic_linear.default
            rest: tuple[Any, ...] = ()
            if layer.is_convolution:
                target, rest = OPS.dynamic_conv.default, convolution_arguments(layer) or ()
            if form.activations is ZeroPoint.SYMMETRIC:
                rest = (*rest, True)
            call = _call(graph, target, layer.input, *constants, bias_node, *rest)
        call.meta = dict(node.meta)
        node.replace_all_uses_with(call)
        graph.erase_node(node)
        computed[name] = call.name
    return rebuilt(module), computed


def _quantize_weights(
    module: fx.GraphModule,
    tied: Mapping[str, Layer],
    form: IntegerForm,
    input_scales: Sequence[float],
    scale: Tensor | None,
) -> None:
    """Put int8 weights and an int32 bias, each behind its dequantisation, in the place of the float ones.

    `tied` are the layers by name that share one weight, which is stored under the first one's name; its scale serves
    the biases of all, and is `scale` where one is given. The bias of a product of more than two dimensions stays float: runtimes add it after the
    product, in float.
    """
    path = f"{ROOT}.{next(iter(tied))}"
    values = {name: _values(module, layer, form.add_bias) for name, layer in tied.items()}
    in_integers = {
        name: bias is not None and adds_in_integers(tied[name]) for name, (_, bias) in values.items()
    }
    axis = next(iter(tied.values())).axis
    if scale is None:
        needed = [
            affine.weight_scales(
                weight, axis, form.bits, bias if in_integers[name] else None, input_scale, form.granularity
            )
            for (name, (weight, bias)), input_scale in zip(values.items(), input_scales, strict=True)
        ]
        scale = torch.stack(needed).amax(0)
    weight = next(iter(values.values()))[0]
    set_buffer(module, f"{path}.weight", affine.round_weight(weight, scale, axis, form.bits))
    set_buffer(module, f"{path}.weight_scale", scale)
    for (name, layer), input_scale in zip(tied.items(), input_scales, strict=True):
        with module.graph.inserting_before(layer.node):
            constants = _constants(module, path, "weight", "weight_scale")
            call = _call(module.graph, OPS.dequantize_channels.default, *constants, axis)
        layer.node.replace_input_with(layer.weight, call)
        bias = values[name][1]
        if bias is not None:
            bias_scale = scale * input_scale if in_integers[name] else None
            _store_bias(module, layer, f"{ROOT}.{name}", bias, bias_scale)


def _store_bias(module: fx.GraphModule, layer: Layer, path: str, bias: Tensor, scale: Tensor | None) -> None:
    """Give the layer this bias, in int32 at `scale` where there is one."""
    graph = module.graph
    with graph.inserting_before(layer.node):
        if scale is None:
            set_buffer(module, f"{path}.bias", bias)
            (bias_node,) = _constants(module, path, "bias")
        else:
            set_buffer(module, f"{path}.bias", affine.round_bias(bias, scale))
            set_buffer(module, f"{path}.bias_scale", scale)
            constants = _constants(module, path, "bias", "bias_scale")
            bias_node = _call(graph, OPS.dequantize_channels.default, *constants, 0)
    set_bias(layer, bias_node)


def set_bias(layer: Layer, bias: fx.Node) -> None:
    """Make the layer read this bias, whether it had one or not."""
    node = layer.node
    if layer.bias is not None:
        node.replace_input_with(layer.bias, bias)
    elif len(node.args) > 2:
        node.update_arg(2, bias)
    else:
        node.args = (*node.args, bias)


def adds_in_integers(layer: Layer) -> bool:
    """Is the bias added before the output is rounded? Runtimes add those of larger products in float, afterwards."""
    return layer.is_convolution or len(shape_of(layer.node)) == 2


def can_have_bias(layer: Layer) -> bool:
    """Is there a place for a bias in the layer's call?"""
    return operator(layer.node) not in ("matmul", "mm")


def _values(module: fx.GraphModule, layer: Layer, add_bias: bool) -> tuple[Tensor, Tensor | None]:
    """The layer's float weight and bias; a bias of zeros if it has none, may have one, and `add_bias`."""
    weight = attribute(module, str(layer.weight.target)).detach()
    if layer.bias is not None:
        return weight, attribute(module, str(layer.bias.target)).detach().clone()
    return weight, weight.new_zeros(weight.shape[layer.axis]) if add_bias and can_have_bias(layer) else None


def _is_idle(node: fx.Node, quantiser: Affine) -> bool:
    """Is this a ReLU or clamp that changes nothing, since uint8 clips at the same values?"""
    if kind(node) != "clamp" or quantiser.zero_point != 0:
        return False
    low, high = clamp_bounds(node)
    return low == 0.0 and (high is None or round(high / quantiser.scale) >= LEVELS)


def _place_after(node: fx.Node) -> fx.Node:
    """The node before which a call may stand that reads `node`; inputs of the graph stay together."""
    after = node.next
    while after.op == "placeholder" or (node.op == "placeholder" and after.op == "get_attr"):
        after = after.next
    return after


def _constants(module: fx.GraphModule, path: str, *leaves: str) -> list[fx.Node]:
    nodes = []
    for leaf in leaves:
        constant = module.graph.get_attr(f"{path}.{leaf}")
        constant.meta["val"] = attribute(module, f"{path}.{leaf}")
        nodes.append(constant)
    return nodes


def _call(graph: fx.Graph, target: Any, *args: Any) -> fx.Node:
    return graph.call_function(target, args)


def _finished(
    module: fx.GraphModule, plan: Plan, names: dict[fx.Node, str]
) -> tuple[fx.GraphModule, dict[str, str]]:
    return rebuilt(module), {names[layer.node]: layer.node.name for layer in plan.layers}
