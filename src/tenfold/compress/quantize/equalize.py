"""Cross-layer equalisation: channels between two layers scaled so that both weights use their ranges alike.

Nagel et al., 2019, "Data-Free Quantization Through Weight Equalization and Bias Correction" (arXiv:1906.04721, section
4.1). With f(s x) = s f(x) for s > 0, W₂ f(W₁ x + b₁) = W₂ S f(S⁻¹ W₁ x + S⁻¹ b₁). The scales
s_i = √(r₁ r₂) / r₂ (eq. 11) give channel i of W₁ and of W₂ the same range r; pairs are gone through again and again
until none moves any more. ReLU and its like are positively homogeneous; so are max and average pools, by channel.

ReLU6 and other clamps are so only below their bound. A channel that comes near the bound on the calibration examples
keeps its scale, and no other is scaled to where it would reach it: the output stays on those examples, and elsewhere as
long as no channel goes `HEADROOM` times higher.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.capture import attribute, operator, shape_of
from tenfold.compress.quantize.layer_inputs import groups_of
from tenfold.compress.quantize.layers import Layer
from tenfold.compress.quantize.observe import Watch
from tenfold.compress.quantize.ops import along
from tenfold.compress.quantize.plan import clamp_bounds, is_global_pool, kind
from tenfold.cost import Inputs

ROUNDS = 50
SETTLED = 1e-3  # the largest change of log s in a round that ends the rounds
HEADROOM = 1.25
HOMOGENEOUS = {"leaky_relu", "max_pool2d", "avg_pool2d", "max_pool1d", "avg_pool1d", "dropout"}


@dataclass(frozen=True)
class Pair:
    """Two layers of which the second alone reads the first, and the bound of the clamp between them, if any."""

    first: Layer
    second: Layer
    bound: float | None


def equalize(module: fx.GraphModule, layers: dict[str, Layer], inputs: Inputs) -> dict[str, str]:
    """Equalise the layers of a captured module, whose weights it edits; the pairs of names that were.

    `layers` are those whose weights nothing else reads. Weights of zero and channels that no one reads stay as they
    are.
    """
    names = {layer.node: name for name, layer in layers.items()}
    pairs = find_pairs(module, layers)
    highest = _highest(module, [pair for pair in pairs if pair.bound is not None], inputs)
    # What each channel has been scaled by since the clamp was looked at.
    scaled = {
        pair.first.node: torch.ones(_weight(module, pair.first).shape[pair.first.axis]) for pair in pairs
    }
    for _ in range(ROUNDS):
        moved = 0.0
        for pair in pairs:
            scale = scales(module, pair)
            if pair.bound is not None:
                so_far = scaled[pair.first.node]
                peak = HEADROOM * highest[pair.first.node]
                # (x / s) · HEADROOM must stay below the bound for the largest x seen; where x nears it, s stays 1.
                scale = torch.maximum(scale, (peak / pair.bound).clamp(min=1e-12) / so_far)
                scale = torch.where(peak >= pair.bound, torch.ones_like(scale), scale)
                scaled[pair.first.node] = so_far * scale
            _apply(module, pair, scale)
            moved = max(moved, float(scale.log().abs().max()))
        if moved < SETTLED:
            break
    return {names[pair.first.node]: names[pair.second.node] for pair in pairs}


def find_pairs(module: fx.GraphModule, layers: dict[str, Layer]) -> list[Pair]:
    """The pairs of these layers with nothing but homogeneous calls by channel between them, in order."""
    by_node = {layer.node: layer for layer in layers.values()}
    readers: dict[str, int] = {}
    for node in module.graph.nodes:
        if node.op == "get_attr":
            readers[str(node.target)] = readers.get(str(node.target), 0) + len(node.users)
    pairs = []
    for first in by_node.values():
        if first.bias is not None and readers[str(first.bias.target)] > 1:
            continue
        node, bound, found = first.node, None, None
        while len(node.users) == 1:
            (reader,) = node.users
            second = by_node.get(reader)
            if second is not None:
                found = second if second.input is node and _channels_meet(first, second) else None
                break
            if operator(reader) == "relu" or operator(reader) in HOMOGENEOUS or _is_global_pool(reader):
                node = reader
                continue
            if kind(reader) == "clamp" and reader.args[0] is node:
                high = clamp_bounds(reader)[1]
                if clamp_bounds(reader)[0] != 0.0 or (high is None and _computed_bound(reader)):
                    break
                bound = high if bound is None else bound if high is None else min(bound, high)
                node = reader
                continue
            break
        if found is not None:
            pairs.append(Pair(first, found, bound))
    return pairs


def scales(module: fx.GraphModule, pair: Pair) -> Tensor:
    """s (C,) of eq. 11 for the channels between the two layers; 1 where either has no weight other than zero."""
    r1 = _weight(module, pair.first).movedim(pair.first.axis, 0).flatten(1).abs().amax(1).double()
    r2 = _by_input(module, pair).flatten(1).abs().amax(1).double()
    scale = (r1 * r2).sqrt() / r2
    usable = (r1 > 0) & (r2 > 0) & torch.isfinite(scale) & (scale > 0)
    return torch.where(usable, scale, torch.ones_like(scale)).float()


def _apply(module: fx.GraphModule, pair: Pair, scale: Tensor) -> None:
    first, weight = pair.first, _weight(module, pair.first)
    with torch.no_grad():
        weight.div_(along(scale, first.axis, weight.dim()))
        if first.bias is not None:
            attribute(module, str(first.bias.target)).div_(scale)
        second = _by_input(module, pair)
        second.mul_(along(scale, 0, second.dim()))


def _by_input(module: fx.GraphModule, pair: Pair) -> Tensor:
    """The second layer's weight as a view whose first dimension is the channel that it reads."""
    second, weight = pair.second, _weight(module, pair.second)
    if not second.is_convolution:
        return weight.movedim(1 - second.axis, 0)
    groups = groups_of(second)
    if groups == 1:
        return weight.transpose(0, 1)
    return weight.unflatten(0, (groups, -1))[:, :, 0]  # depthwise: a channel of input for each group


def _channels_meet(first: Layer, second: Layer) -> bool:
    """Are the channels that the first writes those that the second reads, one for one?"""
    if first.is_convolution != second.is_convolution:
        return False
    out = shape_of(first.node)[first.channel_dim]
    into = shape_of(second.input)[second.channel_dim]
    groups = groups_of(second)
    # Of a grouped convolution only depthwise ones can be scaled through a view.
    return out == into and (groups == 1 or groups == into)


def _computed_bound(node: fx.Node) -> bool:
    """Is the upper bound of this clamp a tensor?"""
    given = [*node.args[1:], *node.kwargs.values()]
    return any(isinstance(value, fx.Node) for value in given)


def _is_global_pool(node: fx.Node) -> bool:
    """A mean over all of space, kept as dimensions of one."""
    return operator(node) == "adaptive_avg_pool2d" and is_global_pool(node)


def _highest(module: fx.GraphModule, pairs: list[Pair], inputs: Inputs) -> dict[fx.Node, Tensor]:
    """The largest value of each channel that the first layers of these pairs write, on the examples: (C,)."""
    found: dict[fx.Node, Tensor] = {}
    dims = {pair.first.node: pair.first.channel_dim for pair in pairs}

    def see(node: fx.Node, value: Tensor) -> None:
        found[node] = value.movedim(dims[node], 0).flatten(1).amax(1)

    if dims:
        Watch(module, dims, see).watch(inputs)
    return found


def _weight(module: fx.GraphModule, layer: Layer) -> Tensor:
    return attribute(module, str(layer.weight.target)).detach()
