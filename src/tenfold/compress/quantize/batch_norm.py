"""Folding batch norm into the layer before it: an exact change of weights, made before anything is rounded.

In inference y = γ · (W x + b − μ) / √(σ² + ε) + β is a layer with W' = W · g and b' = (b − μ) · g + β, where
g = γ / √(σ² + ε) for each output channel (Jacob et al., 2018, arXiv:1712.05877, section 3.2).
"""

from __future__ import annotations

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.capture import attribute, operator, set_buffer, shape_of
from tenfold.compress.quantize.layers import Layer, layer_of
from tenfold.compress.quantize.naming import stable_names
from tenfold.compress.quantize.ops import along


def fold_batch_norms(module: fx.GraphModule) -> int:
    """Fold every batch norm whose input is the output of one layer, used nowhere else; returns how many."""
    names = stable_names(module.graph)
    folded = 0
    for node in list(module.graph.nodes):
        if operator(node) != "batch_norm" or not isinstance(node.args[0], fx.Node):
            continue
        layer = layer_of(node.args[0])
        if layer is None or not _can_fold(layer, node):
            continue
        weight, bias = _folded(module, layer, node)
        _replace(module, layer, weight, bias, names[layer.node])
        node.replace_all_uses_with(layer.node)
        module.graph.erase_node(node)
        folded += 1
    return folded


def _can_fold(layer: Layer, norm: fx.Node) -> bool:
    """Is the norm the only reader of the layer, over its output channels, and by stored statistics?"""
    by_batch = bool(norm.args[5]) or norm.args[3] is None
    over_channels = layer.is_convolution or (operator(layer.node) == "linear" and len(shape_of(norm)) == 2)
    return len(layer.node.users) == 1 and over_channels and not by_batch


def _folded(module: fx.GraphModule, layer: Layer, norm: fx.Node) -> tuple[Tensor, Tensor]:
    """The weight and bias of layer and norm together, computed in float64."""

    def value(node: object, default: float) -> Tensor:
        if isinstance(node, fx.Node):
            return attribute(module, str(node.target)).detach().double()
        return torch.full_like(mean, default)

    weight = attribute(module, str(layer.weight.target)).detach().double()
    gamma, beta, running_mean, running_var = norm.args[1:5]
    mean = attribute(module, str(running_mean.target)).detach().double()  # type: ignore[union-attr]
    gain = value(gamma, 1.0) / torch.sqrt(value(running_var, 1.0) + float(norm.args[7]))  # type: ignore[arg-type]
    bias = (value(layer.bias, 0.0) - mean) * gain + value(beta, 0.0)
    return (weight * along(gain, layer.axis, weight.dim())).float(), bias.float()


def _replace(module: fx.GraphModule, layer: Layer, weight: Tensor, bias: Tensor, name: str) -> None:
    """Give the layer these constants, under its own name since another layer may share the old ones."""
    node = layer.node
    with module.graph.inserting_before(node):
        for position, leaf, tensor in ((1, "weight", weight), (2, "bias", bias)):
            path = f"folded.{name}.{leaf}"
            set_buffer(module, path, tensor)
            constant = module.graph.get_attr(path)
            constant.meta["val"] = tensor
            if len(node.args) > position:
                node.update_arg(position, constant)
            else:
                node.insert_arg(len(node.args), constant)
