"""Networks that would not fit the memory, refused before any of it is taken."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from numbers import Real
from typing import Any

import torch
from torch import nn

from tenfold.cost import free_memory
from tenfold.errors import NetworkError


def require_memory(name: str, build: Callable[..., nn.Module], chosen: Mapping[str, Any]) -> None:
    """Raise a `NetworkError` that names the options if `build(**chosen)` takes more bytes than are free.

    Only where an option is above its default: published networks are not counted first. Nothing is counted where
    torch's default device is another than the processor: "meta" has room for any network, a GPU has memory of its own.
    """
    larger = _larger(build, chosen)
    if not larger or torch.get_default_device().type != "cpu":
        return
    given = f"{name} with {', '.join(f'{option}={chosen[option]!r:.40}' for option in larger)}"
    try:
        with torch.device("meta"):
            network = build(**chosen)
    except (RuntimeError, TypeError, OverflowError, ValueError) as error:
        if isinstance(error, OverflowError) or "overflow" in str(error).lower():
            raise NetworkError(f"{given} is larger than any memory: choose less") from error
        return  # which building it says
    tensors = [*network.parameters(), *network.buffers()]
    needed, free = sum(tensor.nbytes for tensor in tensors), free_memory()
    if needed > free:
        count = sum(parameter.numel() for parameter in network.parameters())
        raise NetworkError(
            f"{given} has {count:.4g} parameters, {needed / 1e9:.3g} GB, and {free / 1e9:.3g} GB of memory are free: "
            "choose less"
        )


def _larger(build: Callable[..., nn.Module], chosen: Mapping[str, Any]) -> list[str]:
    """The options above their defaults, and those with a value for each stage."""
    parameters = inspect.signature(build).parameters

    def exceeds(value: Any, usual: Any) -> bool:
        if isinstance(value, Real) and isinstance(usual, Real):  # numbers of NumPy too, which `create` takes
            return bool(value > usual)
        return isinstance(value, Sequence)

    return [option for option, value in chosen.items() if exceeds(value, parameters[option].default)]
