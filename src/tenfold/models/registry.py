"""Architectures by name: `create("resnet56", num_classes=10, in_channels=1)`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from torch import nn

from tenfold.errors import NetworkError
from tenfold.models.resnet_cifar import DEPTHS, CifarResNet
from tenfold.naming import described, nearest

ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    f"resnet{depth}": partial(CifarResNet, depth) for depth in DEPTHS
}


def names() -> list[str]:
    """The architectures that `create` knows."""
    return list(ARCHITECTURES)


def create(name: str, **options: Any) -> nn.Module:
    """A new network of the architecture `name`, with random weights from torch's global generator.

    `options` are keyword arguments of the architecture (`num_classes`, `in_channels`). Raises `NetworkError` for
    an unknown name or option (the nearest ones are offered) and for a value that the architecture refuses.
    """
    if name not in ARCHITECTURES:
        raise NetworkError(f"no architecture {name!r}{nearest(name, ARCHITECTURES)}")
    build = ARCHITECTURES[name]
    allowed = list(inspect.signature(build).parameters)
    for option in options:
        if option not in allowed:
            raise NetworkError(f"{name} has no option {option!r}{nearest(option, allowed)}")
    try:
        return build(**options)
    except (ValueError, TypeError, RuntimeError) as error:
        raise NetworkError(f"{name} cannot be built with {options}: {described(error)}") from error
