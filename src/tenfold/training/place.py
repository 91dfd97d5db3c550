"""Where networks are trained: on a GPU if there is one, whatever will serve them."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from tenfold.cost import Inputs, call, map_inputs
from tenfold.errors import NetworkError, TenfoldWarning
from tenfold.training.precision import device_of


def training_place(name: str | None = None, option: str = "train_on") -> torch.device:
    """The device named ("cpu" or "cuda"), checked; a GPU if there is one where none is named.

    Raises `NetworkError`, which names the `option`, for any other name and where this PyTorch sees no GPU.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda"):
        raise NetworkError(f"{option} is cpu or cuda, not {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise NetworkError(
            f"{option} cuda: this PyTorch sees no GPU; leave the option out to train on the processor"
        )
    return torch.device(name)


def place_for(model: nn.Module, inputs: Inputs, name: str | None = None) -> torch.device:
    """As `training_place`, tried with a step on a few `inputs`; where none is named, what cannot move stays on the CPU.

    That is so of a network that makes tensors on the CPU by itself, or is too large for the GPU; a warning says it.
    Raises `NetworkError` where it was to go to a GPU.
    """
    place = training_place(name)
    if place.type == "cpu":
        return place
    try:
        outputs = call(copy.deepcopy(model).to(place), map_inputs(lambda tensor: tensor.to(place), inputs))
        if outputs.requires_grad:
            outputs.float().square().mean().backward()
    except (RuntimeError, NetworkError) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        text = f"the network does not run on the GPU ({why})"
        if name is not None:
            raise NetworkError(
                f"{text}; leave train_on out, or say cpu, to train on the processor"
            ) from error
        warnings.warn(f"{text}: it is trained on the processor", TenfoldWarning, stacklevel=2)
        return torch.device("cpu")
    return place


@contextmanager
def placed(model: nn.Module, device: torch.device) -> Iterator[None]:
    """While it lasts the model lies on the device; its parameters stay the same objects."""
    home = device_of(model)
    model.to(device)
    try:
        yield
    finally:
        model.to(home)
