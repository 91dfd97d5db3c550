"""Which layers can be replaced by several: found by running the network once and watching who touches their weights."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.compress.factorize.structure import CONVOLUTIONS, Layer
from tenfold.compress.technique import apart
from tenfold.cost import Inputs, batch_size, call
from tenfold.errors import NetworkError


@dataclass(frozen=True)
class Candidate:
    """A layer that may be replaced, and the positions of its input and output for one example."""

    name: str
    layer: Layer
    places_in: int
    places_out: int


def candidates(
    model: nn.Module, inputs: Inputs, patterns: tuple[str, ...] = ()
) -> tuple[list[Candidate], dict[str, str]]:
    """The layers that can be replaced, and for the other linear and convolutional ones the reason why not.

    `patterns` (as for file names; any must match) choose layers by name; others are not mentioned.
    """
    skipped: dict[str, str] = {}
    chosen: dict[str, Layer] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, (nn.Linear, *CONVOLUTIONS)) or not name or not matches(name, patterns):
            continue
        reason = _why_not(layer)
        if reason is None:
            chosen[name] = layer
        else:
            skipped[name] = reason
    for name, other in _shared(model, chosen).items():
        skipped[name] = f"its weight is shared with {other}"
        del chosen[name]
    seen, read = _watched(model, inputs, chosen)
    found = []
    for name, layer in chosen.items():
        if name in read:
            skipped[name] = f"other code reads its {read[name]} directly, so it cannot become several layers"
        elif name not in seen:
            skipped[name] = "it is never called by the network"
        else:
            found.append(Candidate(name, layer, *seen[name]))
    return found, skipped


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether the name matches any pattern; every name does where there is none."""
    patterns = tuple(patterns)
    return not patterns or any(fnmatchcase(name, pattern) for pattern in patterns)


def _why_not(layer: nn.Module) -> str | None:
    if type(layer) not in (nn.Linear, *CONVOLUTIONS):
        return f"it is a {type(layer).__name__}, whose forward may do more than its base class"
    if isinstance(layer, CONVOLUTIONS) and layer.groups > 1:
        return "it is grouped or depthwise"
    if nn.utils.parametrize.is_parametrized(layer) or layer._forward_pre_hooks or layer._forward_hooks:
        return "it has a parametrisation or hooks"
    if not layer.get_parameter("weight").is_floating_point():
        return "its weight is not floating point"
    return None


def _shared(model: nn.Module, layers: dict[str, Layer]) -> dict[str, str]:
    """Layers whose weight, or who themselves, appear under another name too."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    shared = {}
    for name, layer in layers.items():
        others = [n for n in names.get(id(layer.weight), []) if n != f"{name}.weight"]
        if others:
            shared[name] = others[0]
    return shared


def _watched(
    model: nn.Module, inputs: Inputs, layers: dict[str, Layer]
) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Run a copy of the network: {called layer: positions in and out}, {layer: what other code read of it}."""
    trial = copy.deepcopy(model).eval()
    seen: dict[str, tuple[int, int]] = {}
    read: dict[str, str] = {}
    for name in layers:
        layer = trial.get_submodule(name)
        layer.__class__ = _watching(type(layer), name, seen, read)
    try:
        # With gradients on, since some networks take a path that reads weights only where they are off, and
        # others only where they are on: both count.
        for gradients in (True, False):
            with torch.set_grad_enabled(gradients):
                call(trial, inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        text = apart(model, inputs) or f"the network does not run on its example inputs: {error}"
        raise NetworkError(text) from error
    examples = batch_size(inputs)
    return {name: (a // examples, b // examples) for name, (a, b) in seen.items()}, read


def _watching(
    kind: type[Any], name: str, seen: dict[str, tuple[int, int]], read: dict[str, str]
) -> type[Any]:
    """A subclass of a layer that notes its calls, and who reads its parameters or sizes from outside them."""

    class Watching(kind):  # type: ignore[misc]
        _inside = False

        def __getattribute__(self, attribute: str) -> Any:
            if attribute in READ_FROM_OUTSIDE and not object.__getattribute__(self, "_inside"):
                read.setdefault(name, attribute)
            return super().__getattribute__(attribute)

        def forward(self, input: Tensor) -> Tensor:  # named as in the base class: it may be passed by keyword
            object.__setattr__(self, "_inside", True)
            try:
                y = super().forward(input)
            finally:
                object.__setattr__(self, "_inside", False)
            last = isinstance(self, nn.Linear)
            counts = [t.numel() // t.shape[-1 if last else 1] for t in (input, y)]
            before = seen.get(name, (0, 0))
            seen[name] = (max(before[0], counts[0]), max(before[1], counts[1]))
            return y

    return Watching


READ_FROM_OUTSIDE = frozenset(
    (
        "weight",
        "bias",
        "in_features",
        "out_features",
        "in_channels",
        "out_channels",
        "kernel_size",
        "stride",
        "padding",
    )
)
