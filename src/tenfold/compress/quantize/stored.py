"""Weights that are stored in fewer bits than they are computed in: rounded on grids of two levels, packed, expanded.

A network over int8 weights is made as ever; then each weight becomes the call that expands its codes. In an ONNX file
the runtime does that once, when it loads the file, and computes as with int8 weights from there on.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.affine import weight_limit
from tenfold.compress.quantize.allocation import Average
from tenfold.compress.quantize.bits import bits_by_layer
from tenfold.compress.quantize.capture import attribute, copied, rebuilt, set_buffer, shape_of
from tenfold.compress.quantize.codes import pack_codes, unpack_codes
from tenfold.compress.quantize.grid import Grid, PerChannel, PerGroup, ZeroPoint
from tenfold.compress.quantize.insert import ROOT
from tenfold.compress.quantize.integers import Mode
from tenfold.compress.quantize.layer_inputs import matrix_of, weight_of
from tenfold.compress.quantize.layers import Layer, leaders, readable
from tenfold.compress.quantize.learned import ROUND
from tenfold.compress.quantize.observe import Observer
from tenfold.compress.quantize.plan import Plan
from tenfold.compress.quantize.ranges import fit_grid
from tenfold.compress.quantize.rounding import Rounding
from tenfold.compress.quantize.two_level import (
    MULTIPLE_BITS,
    TwoLevelGrid,
    equal_groups,
    largest_multiple,
    two_level,
)
from tenfold.compress.quantize.walk import Target, Walk, packed_targets
from tenfold.compress.quantize.weight_insert import Form
from tenfold.compress.technique import Json, Run
from tenfold.cost import Inputs
from tenfold.errors import RecipeError

NARROW = range(2, 8)  # bits that weights can be stored in
LEAST_SHARE = 0.02  # of the weights, for which it is worth it
EXPAND = torch.ops.tenfold.expand_weight.default


@dataclass(frozen=True)
class StoredWeight:
    """A weight in fewer bits: `codes` (R, K) and `multiples` (R, K / group) uint8, none where a row is one group.

    Its int8 form is multiples · (codes − 2^(bits−1)), of `shape`, the output channels along `axis`.
    """

    bits: int
    group: int
    codes: Tensor
    multiples: Tensor | None
    shape: tuple[int, ...]
    axis: int

    def by_output(self) -> StoredWeight:
        """The same as a matrix with the output channels first."""
        return replace(self, shape=tuple(self.codes.shape), axis=0)

    def values(self) -> Tensor:
        """The int8 weight."""
        return EXPAND(*self.packed(), self.bits, list(self.shape), self.axis, self.group)  # type: ignore[no-any-return]

    def packed(self) -> tuple[Tensor, Tensor | None]:
        """Codes and multiples as bytes without gaps."""
        multiples = None if self.multiples is None else pack_codes(self.multiples, MULTIPLE_BITS)
        return pack_codes(self.codes, self.bits), multiples


@dataclass(frozen=True)
class Coarse:
    """How weights are stored: their `bits`, groups of at most so many inputs, and within ±`limit` as integers."""

    bits: int | Average
    group: int
    limit: int
    observer: Observer
    rounding: Rounding
    correct: bool

    def fit(self, matrix: Tensor, bits: int, least: Tensor, importance: Tensor | None = None) -> Grid:
        """The grid of a weight (R, K), whose channels have scales of `least` (R,) at least."""
        granularity = self.granularity(matrix.shape[1], bits)
        grid = fit_grid(matrix, bits, granularity, ZeroPoint.SYMMETRIC, self.observer, importance)
        return two_level(grid, matrix, self.limit, least, importance)

    def granularity(self, width: int, bits: int) -> PerChannel | PerGroup:
        """Groups of equal size, or none where there is but one, or no room for multiples."""
        size = equal_groups(width, self.group)
        return PerChannel() if size == width or largest_multiple(bits, self.limit) < 2 else PerGroup(size)


def storable(module: fx.GraphModule, plan: Plan, mode: Mode) -> dict[str, Layer]:
    """The layers whose weights can be stored in fewer bits, by name.

    Nothing else reads these. The dynamic mode's convolutions are left out: their runtime's operator shifts the integers.
    """
    layers = readable(module.graph, plan.layers)
    if mode is Mode.STATIC:
        return layers
    return {name: layer for name, layer in layers.items() if not layer.is_convolution}


class _Keeping(Walk):
    """A walk that keeps what it stores: the grid and the codes of each layer by name."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.kept: dict[str, tuple[Grid, Tensor]] = {}

    def store(self, target: Target, grid: Grid, codes: Tensor) -> None:
        super().store(target, grid, codes)
        self.kept[target.name] = grid, codes


def check_room(bits: int | Average | None, computed: int, by_processor: bool) -> None:
    """Raise a `RecipeError` where codes of these bits do not lie within the integers of `computed` bits.

    `by_processor`: these are what this processor computes with, and nobody's choice.
    """
    asked = bits.choices if isinstance(bits, Average) else [] if bits is None else [bits]
    wide = [b for b in asked if b in NARROW and not largest_multiple(b, weight_limit(computed))]
    if wide:
        why = "as this CPU needs" if by_processor else "as weight_bits says"
        raise RecipeError(
            f"quantize: codes of {wide[-1]} bits do not fit integers of {computed}, {why}: leave {wide[-1]} out of "
            "stored_bits, or give weight_bits 8"
        )


def check_storable(
    bits: int | Average | None, layers: Mapping[str, Layer], all_layers: Iterable[Layer]
) -> None:
    """Raise a `RecipeError` where fewer bits are asked for and `layers`, which can be stored in them, are few of all."""
    if bits is None:
        return
    held = sum(_weights_of(layer) for layer in layers.values())
    share = held / max(sum(map(_weights_of, all_layers)), 1)
    if share >= LEAST_SHARE:
        return
    raise RecipeError(
        f"quantize: stored_bits are of no use: {share:.0%} of the weights can be stored in them; something else reads "
        "the others, or they are of convolutions, which only the mode static stores so: leave stored_bits out"
    )


def _weights_of(layer: Layer) -> int:
    return math.prod(shape_of(layer.weight))


def round_coarsely(
    module: fx.GraphModule,
    layers: dict[str, Layer],
    least: dict[str, Tensor],
    coarse: Coarse,
    examples: Inputs,
    run: Run,
) -> tuple[dict[str, StoredWeight], dict[str, Tensor], Json | None]:
    """Round the weights of the `layers` of the float `module`, in place, to what can be stored so.

    Returns what is stored and the scale (R,) of each by the name of the first layer that reads it, and what an
    allocation of bits is expected to gain. Layers that are given eight bits are left as they are.
    """
    weights = {name: attribute(module, str(layer.weight.target)).detach() for name, layer in layers.items()}
    first = leaders(layers)
    at_least = {
        leader: torch.stack([least[name] for name in layers if first[name] == leader]).amax(0)
        for leader in dict.fromkeys(first.values())
    }

    def judged(matrix: Tensor, bits: int) -> Grid:
        if largest_multiple(bits, coarse.limit):
            return coarse.fit(matrix, bits, torch.zeros(len(matrix)))
        computed = coarse.limit.bit_length() + 1  # eight bits in a file are as many as the kernel has
        return fit_grid(matrix, min(bits, computed), PerChannel(), ZeroPoint.SYMMETRIC, coarse.observer)

    bits, allocation = bits_by_layer(
        coarse.bits, module, layers, weights, judged, examples, run.part(0.0, 0.2), "quantize"
    )
    narrow = {name for name in layers if largest_multiple(bits[name], coarse.limit)}
    if not narrow:
        return {}, {}, allocation
    work = copied(module)
    in_work = dict(zip(module.graph.nodes, work.graph.nodes, strict=True))
    in_copy = {name: relocated(layer, in_work) for name, layer in layers.items() if name in narrow}
    forms = {}
    for name, layer in in_copy.items():
        width = matrix_of(weights[name], layer.axis).shape[1]
        forms[name] = Form(bits[name], coarse.granularity(width, bits[name]), ZeroPoint.SYMMETRIC)
    targets = packed_targets(work, in_copy, forms, coarse.correct)
    walk = _Keeping(
        work,
        targets,
        examples,
        unit=coarse.rounding.unit,
        effort=coarse.rounding.effort,
        correct=coarse.correct,
        run=run,
        progress=lambda share, name: run.progress(0.2 + 0.8 * share, f"quantize: rounding {name}"),
    )

    def fit(target: Target, importance: Tensor | None) -> Grid:
        return coarse.fit(target.matrix, bits[target.name], at_least[target.name], importance)

    walk.run(partial(ROUND[type(coarse.rounding)], fit=fit, rounding=coarse.rounding))
    stored, scales = {}, {}
    for name, (grid, codes) in walk.kept.items():
        assert isinstance(grid, TwoLevelGrid)
        layer, shape = layers[name], tuple(weights[name].shape)
        multiples = grid.multiples.to(torch.uint8) if grid.multiples.shape[1] > 1 else None
        stored[name] = StoredWeight(
            bits[name], grid.group or codes.shape[1], codes, multiples, shape, layer.axis
        )
        scales[name] = grid.channel[:, 0]
        with torch.no_grad():
            weights[name].copy_(weight_of(grid.dequantized(codes), shape, layer.axis))
    return stored, scales, allocation


def blank_weight(
    name: str, layers: Mapping[str, Layer], bits: Any, group: Any, *, by_output: bool
) -> StoredWeight:
    """A weight of zeros in the place of the layer's of this name; `RecipeError` for a form that it cannot have."""
    layer = layers.get(name)
    if layer is None:
        raise RecipeError(f"quantize: made for another network; it has no layer {name}")
    if leaders(layers)[name] != name:
        raise RecipeError(f"quantize: made for another network; {name} reads the weight of a layer before it")
    shape = shape_of(layer.weight)
    rows = shape[layer.axis]
    width = math.prod(shape) // rows
    whole = type(bits) is int and type(group) is int
    if not whole or bits not in NARROW or group < 1 or width % group:
        raise RecipeError(
            f"quantize: {name} cannot be stored in {bits!r:.40} bits by groups of {group!r:.40}: it has {width} inputs, and "
            f"{NARROW[0]} to {NARROW[-1]} bits are known"
        )
    multiples = None if group == width else torch.zeros(rows, width // group, dtype=torch.uint8)
    codes = torch.zeros(rows, width, dtype=torch.uint8)
    weight = StoredWeight(bits, group, codes, multiples, shape, layer.axis)
    return weight.by_output() if by_output else weight


def relocated(layer: Layer, nodes: Mapping[fx.Node, fx.Node]) -> Layer:
    """The same layer in a copy of its graph."""
    bias = None if layer.bias is None else nodes[layer.bias]
    return replace(
        layer, node=nodes[layer.node], input=nodes[layer.input], weight=nodes[layer.weight], bias=bias
    )


def insert_stored(module: fx.GraphModule, stored: Mapping[str, StoredWeight]) -> fx.GraphModule:
    """A network over int8 weights with those that are `stored`, by layer, in the place of their integers."""
    graph = module.graph
    readers: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            readers.setdefault(str(node.target), []).append(node)
    for name, weight in stored.items():
        path = f"{ROOT}.{name}"
        constants = dict(zip(("codes", "multiples"), weight.packed(), strict=True))
        for node in readers[f"{path}.weight"]:
            with graph.inserting_before(node):
                arguments: list[fx.Node | None] = []
                for leaf, value in constants.items():
                    if value is None:
                        arguments.append(None)
                        continue
                    set_buffer(module, f"{path}.{leaf}", value)
                    arguments.append(graph.get_attr(f"{path}.{leaf}"))
                    arguments[-1].meta["val"] = value  # type: ignore[union-attr]
                call = graph.call_function(
                    EXPAND, (*arguments, weight.bits, list(weight.shape), weight.axis, weight.group)
                )
            call.meta = dict(node.meta)
            node.replace_all_uses_with(call)
    return rebuilt(module)


def stored_weights(module: fx.GraphModule) -> list[tuple[fx.Node, StoredWeight]]:
    """Every weight that is expanded when the network runs, and the call that does it."""
    found = []
    for node in module.graph.nodes:
        if node.op != "call_function" or node.target is not EXPAND:
            continue
        codes, multiples, bits, shape, axis, group = node.args
        rows, number = shape[axis], math.prod(shape)
        read = unpack_codes(attribute(module, str(codes.target)), bits, number).reshape(rows, -1)
        factors = None
        if multiples is not None:
            packed = attribute(module, str(multiples.target))
            factors = unpack_codes(packed, MULTIPLE_BITS, number // group).reshape(rows, -1)
        found.append((node, StoredWeight(bits, group, read, factors, tuple(shape), axis)))
    return found
