"""Weights of other libraries in our networks: a mapping by name, checked by name and shape, then copied whole.

A network that can take such weights has a method `namings()`: for each source ("timm", "torchvision", …) our names
of modules, or of single parameters, and what that source calls them. What is not named keeps its name, and so do the
parameters and buffers of a renamed module (`weight`, `bias`, `running_mean`, …).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.errors import NetworkError

Naming = Mapping[str, str]  # our module or parameter -> its name in the source

# What follows from the architecture, and inference reads from nowhere else: a counter of training batches that
# checkpoints older than PyTorch 0.4.1 lack, and Swin's tables, which some versions of its authors' code stored.
OPTIONAL = ("num_batches_tracked", "relative_position_index", "attn_mask")
SHOWN = 3  # names in a summary of what is missing


def load_weights(model: nn.Module, state: Mapping[str, Any]) -> str:
    """Copy `state` (ours, or of a source that the network's `namings` know) into `model`; returns the source.

    All or nothing: raises `NetworkError` with a summary of missing and unexpected names and of shapes that differ,
    and how many names each source accounts for, and leaves the network as it was. A linear layer takes the weights of
    the convolution that it equals on a map of the kernel's size, and the other way round.

    What a state dict does not carry must be asked of `create`, and nothing here can tell that it was not: batch norm's
    epsilon, the padding convention. The weights of timm's `tf_*` networks want `norm_eps=1e-3, same_padding=True`.
    """
    if not isinstance(state, Mapping):
        raise NetworkError(f"a state dict maps names to tensors; this is of type {type(state).__name__}")
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
    known = {name: len(theirs.keys() & tensors.keys()) for name, theirs in translated.items()}
    source = max(known, key=known.__getitem__)
    theirs = translated[source]
    missing = [name for name in theirs if name not in tensors and not name.endswith(OPTIONAL)]
    unexpected = [name for name in tensors if name not in theirs and not name.endswith(OPTIONAL)]
    found = {ours: tensors[name] for name, ours in theirs.items() if name in tensors}
    differing = [
        f"{ours} is {_shape(own[ours])}, given {_shape(value)}"
        for ours, value in found.items()
        if not _same_numbers(own[ours], value)
    ]
    problems = [
        _summary("missing", missing),
        _summary("unexpected", unexpected),
        _summary("of another shape", differing),
    ]
    if any(problems):
        tried = ", ".join(f"{number} as {name}'s" for name, number in known.items())
        if 2 * known[source] < len(own):  # they are nobody's that the network knows
            nearest = f"nearest are {source}'s" if known[source] else "by its own"
            how = f": they fit no naming that it knows; {nearest}"
        else:
            how = f", read as {source}'s"
        raise NetworkError(
            f"{type(model).__name__} cannot take these weights{how}: {'; '.join(filter(None, problems))} "
            f"(of its {len(own)} names it finds {tried})"
        )
    # Everything is converted before anything is copied, so that nothing is half loaded.
    ready = {ours: _converted(ours, value, own[ours]) for ours, value in found.items()}
    with torch.no_grad():
        for ours, value in ready.items():
            own[ours].copy_(value)
    return source


def _converted(name: str, value: Tensor, own: Tensor) -> Tensor:
    """A given tensor in the shape, type and place of the network's own."""
    without_values = value.is_meta and not own.is_meta
    if without_values or value.is_complex() or (own.is_floating_point() and not value.is_floating_point()):
        kind = "without values" if without_values else f"of {value.dtype}"
        raise NetworkError(f"{name} cannot be taken from a tensor {kind}: it is {own.dtype} here")
    return value.detach().reshape(own.shape).to(own.device, own.dtype)


def _renamed(name: str, naming: Naming) -> str:
    """The source's name of a tensor: its own new name, or that of the longest named module that holds it."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        if module in naming:
            return ".".join([naming[module], *parts[end:]])
    return name


def _same_numbers(own: Tensor, given: Tensor) -> bool:
    """True for equal shapes but for trailing ones, and for a matrix beside a kernel that is one when flattened."""
    if own.dim() != given.dim() and 2 in (own.dim(), given.dim()) and min(own.dim(), given.dim()) > 1:
        own, given = own.flatten(1), given.flatten(1)
    return _core(own) == _core(given)


def _core(tensor: Tensor) -> tuple[int, ...]:
    """The shape without trailing ones."""
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
