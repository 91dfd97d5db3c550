"""The layers whose weights techniques change: linear layers and convolutions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Any

from torch import Tensor, nn
from torch.nn.utils import parametrize

from tenfold.compress.technique import Problem
from tenfold.naming import nearest

Weighted = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d


def weighted_layers(model: nn.Module, patterns: Iterable[str] = ()) -> dict[str, Weighted]:
    """Those with weights in floating point, each weight under one name; with `patterns`, whose name matches any."""
    found: dict[str, Weighted] = {}
    seen: set[int] = set()
    patterns = tuple(patterns)
    for name, layer in model.named_modules():
        if (
            not isinstance(layer, Weighted)
            or not layer.weight.is_floating_point()
            or id(layer.weight) in seen
        ):
            continue
        if not patterns or any(fnmatchcase(name, pattern) for pattern in patterns):
            seen.add(id(layer.weight))
            found[name] = layer
    return found


def holders(model: nn.Module, layer: Weighted) -> list[tuple[nn.Module, str]]:
    """Every module that holds this very weight, and its name there: tied layers, an embedding among them."""
    weight = layer.weight
    found = [
        (module, leaf)
        for module in model.modules()
        for leaf, parameter in module._parameters.items()
        if parameter is weight
    ]
    return found or [(layer, "weight")]  # a weight that is computed is no parameter


@contextmanager
def reading(
    modules: Iterable[nn.Module], read: Callable[[nn.Module, Tensor], Tensor | None]
) -> Iterator[None]:
    """For a while `read(module, x)` is called before every call of these layers, x being what the layer is to read.

    That is the first argument, or the one named `input`. A tensor that `read` returns is read in its place.
    """

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        other = read(module, args[0] if args else kwargs["input"])
        if other is None:
            return None
        return ((other, *args[1:]), kwargs) if args else (args, {**kwargs, "input": other})

    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def parametrized(
    model: nn.Module, layers: Mapping[str, Weighted], forms: Mapping[str, nn.Module]
) -> Iterator[None]:
    """For a while each layer's weight is its form's answer, wherever in `model` it is held; ties stay ties.

    Afterwards the weights are plain again, with the values that they had before.
    """
    held = {name: holders(model, layer) for name, layer in layers.items()}
    made: list[tuple[nn.Module, str]] = []
    try:
        for name, places in held.items():
            for module, leaf in places:
                parametrize.register_parametrization(module, leaf, forms[name])
                made.append((module, leaf))
        yield
    finally:
        for module, leaf in made:
            parametrize.remove_parametrizations(module, leaf, leave_parametrized=False)


def unmatched(model: nn.Module, patterns: Iterable[str]) -> list[Problem]:
    """The patterns that match none of these layers."""
    every = weighted_layers(model)
    return [
        Problem(pattern, f"no linear layer or convolution has a name like this{nearest(pattern, every)}")
        for pattern in patterns
        if not weighted_layers(model, (pattern,))
    ]


def not_finite(layers: Mapping[str, Weighted]) -> list[Problem]:
    """The layers whose weights hold NaN or infinity."""
    return [
        Problem(name, "its weight holds NaN or inf")
        for name, layer in layers.items()
        if not bool(layer.weight.isfinite().all())
    ]
