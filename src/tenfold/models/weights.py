"""Weights of other libraries in our networks: a mapping by name, checked by name and shape, then copied whole.

A network that can take such weights has a method `namings()`: for each source ("timm", "torchvision", …) our module
names and what that source calls them. Modules not named keep their names. Parameters and buffers have the same
leaf names everywhere (`weight`, `bias`, `running_mean`, …).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.errors import NetworkError

Naming = Mapping[str, str]  # our module -> its name in the source

# A counter of training batches that inference never reads; checkpoints older than PyTorch 0.4.1 lack it.
OPTIONAL = "num_batches_tracked"
SHOWN = 3  # names in a summary of what is missing


def load_weights(model: nn.Module, state: Mapping[str, Any]) -> str:
    """Copy `state` (ours, or of a source that the network's `namings` know) into `model`; returns the source.

    All or nothing: raises `NetworkError` with a summary of missing and unexpected names and of shapes that differ,
    and leaves the network as it was. A 1×1 convolution takes the weights of a linear layer and the other way round.
    What a state dict does not carry must be asked of `create`: batch norm's epsilon, the padding convention.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    if not tensors:
        raise NetworkError(
            f"{type(model).__name__} cannot take these weights: the state dict holds no tensor"
        )
    namings: dict[str, Naming] = {"tenfold": {}}
    namings.update(getattr(model, "namings", dict)())
    own = model.state_dict()
    translated = {
        source: {_renamed(name, naming): name for name in own} for source, naming in namings.items()
    }
    source = max(translated, key=lambda name: len(translated[name].keys() & tensors.keys()))
    theirs = translated[source]
    missing = [name for name in theirs if name not in tensors and not name.endswith(OPTIONAL)]
    unexpected = [name for name in tensors if name not in theirs and not name.endswith(OPTIONAL)]
    found = {ours: tensors[name] for name, ours in theirs.items() if name in tensors}
    differing = [
        f"{ours} is {_shape(own[ours])}, given {_shape(value)}"
        for ours, value in found.items()
        if _core(own[ours]) != _core(value)
    ]
    problems = [
        _summary("missing", missing),
        _summary("unexpected", unexpected),
        _summary("of another shape", differing),
    ]
    if any(problems):
        raise NetworkError(
            f"{type(model).__name__} cannot take these weights, read as {source}'s: "
            + "; ".join(filter(None, problems))
        )
    with torch.no_grad():
        for ours, value in found.items():
            own[ours].copy_(value.reshape(own[ours].shape))
    return source


def _renamed(name: str, naming: Naming) -> str:
    """The source's name of a tensor: the longest named module that holds it is replaced."""
    parts = name.split(".")
    for end in range(len(parts) - 1, 0, -1):
        module = ".".join(parts[:end])
        if module in naming:
            return ".".join([naming[module], *parts[end:]])
    return name


def _core(tensor: Tensor) -> tuple[int, ...]:
    """The shape without trailing ones: what a 1×1 convolution and a linear layer have in common."""
    shape = tuple(tensor.shape)
    while shape and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def _shape(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a scalar"


def _summary(kind: str, names: list[str]) -> str:
    """`12 missing (a, b, c, …)`, or nothing."""
    if not names:
        return ""
    shown = ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
    return f"{len(names)} {kind} ({shown})"
