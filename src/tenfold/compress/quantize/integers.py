"""From a captured float network to one over integers, for any choice of layers that stay float."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import Tensor, fx

from tenfold.compress.quantize.affine import Affine
from tenfold.compress.quantize.capture import copied
from tenfold.compress.quantize.insert import IntegerForm, insert_dynamic, insert_static
from tenfold.compress.quantize.layers import Layer, convolution_arguments
from tenfold.compress.quantize.naming import module_path, stable_names
from tenfold.compress.quantize.plan import Plan, make_plan
from tenfold.compress.technique import Problem
from tenfold.errors import NetworkError
from tenfold.naming import nearest


class Mode(enum.Enum):
    """STATIC: activation ranges are calibrated beforehand. DYNAMIC: they are measured at every call."""

    STATIC = "static"
    DYNAMIC = "dynamic"


@dataclass(frozen=True)
class Integers:
    """A network over integers: the node of each layer by the layer's name, the quantiser of each tensor by its name.

    `tables` are the embedding tables that it holds as integers.
    """

    module: fx.GraphModule
    computed: dict[str, str]
    affines: dict[str, Affine]
    tables: list[str]


def planned(
    module: fx.GraphModule, mode: Mode, floats: Set[str] = frozenset()
) -> tuple[Plan, dict[fx.Node, str]]:
    """The plan of a captured graph in which the layers named `floats` stay float, and the name of every call."""
    names = stable_names(module.graph)
    plan = make_plan(module.graph, {node for node, name in names.items() if name in floats})
    if mode is Mode.DYNAMIC:  # its operator takes numbers for the padding
        plan.layers = [
            layer for layer in plan.layers if not layer.is_convolution or convolution_arguments(layer)
        ]
    if not plan.layers:
        raise NetworkError(
            "every layer would stay float; leave one out of floats, or quantise nothing"
            if floats
            else "the network has no convolution and no linear layer with constant float32 weights to quantise"
        )
    return plan, names


def inserted(
    module: fx.GraphModule,
    mode: Mode,
    floats: Set[str],
    affines: Mapping[str, Affine],
    form: IntegerForm,
    scales: Mapping[str, Tensor] | None = None,
) -> tuple[fx.GraphModule, dict[str, str]]:
    """A copy of the float `module` over integers, and the node that computes each layer by the layer's name.

    Weights have the `scales` that are given, by layer.
    """
    module = copied(module)
    plan, names = planned(module, mode, floats)
    if mode is Mode.STATIC:
        return insert_static(module, plan, names, affines, form, scales or {})
    return insert_dynamic(module, plan, names, form, scales or {})


def named(layers: Sequence[Layer], names: Mapping[fx.Node, str], patterns: Sequence[str]) -> frozenset[str]:
    """The names of the layers that match any of the patterns, by the module that calls them or by their own name."""
    return frozenset(
        names[layer.node]
        for layer in layers
        if any(fnmatchcase(each, pattern) for each in _called(layer, names) for pattern in patterns)
    )


def unmatched(
    layers: Sequence[Layer], names: Mapping[fx.Node, str], patterns: Sequence[str]
) -> list[Problem]:
    """The patterns that match none of the layers."""
    known = {_called(layer, names)[0] for layer in layers}
    return [
        Problem(pattern, f"no layer has a name like this in Quantize.floats{nearest(pattern, known)}")
        for pattern in patterns
        if not named(layers, names, (pattern,))
    ]


def _called(layer: Layer, names: Mapping[fx.Node, str]) -> tuple[str, str]:
    """What a user may call the layer: its module ("layer1.0.conv2"), and its name ("layer1.0.conv2.conv2d")."""
    return module_path(layer.node) or names[layer.node], names[layer.node]
