"""Networks by name: `create("resnet56", num_classes=10, in_channels=1)`, `describe("resnet56")`.

A family is a module that hands on a dict of its entries; to add one, name it in `FAMILIES`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from tenfold.errors import NetworkError
from tenfold.models import (
    convnext,
    mlp_mixer,
    mobile_networks,
    resnet,
    resnet_cifar,
    squeezenet,
    swin,
    vgg,
    vision_transformer,
)
from tenfold.models.entry import Description, Entry
from tenfold.models.images import check_count
from tenfold.models.largest import require_memory
from tenfold.models.option_types import check_types
from tenfold.naming import described, nearest

FAMILIES: tuple[Mapping[str, Entry], ...] = (
    mobile_networks.NETWORKS,
    resnet_cifar.NETWORKS,
    resnet.NETWORKS,
    squeezenet.NETWORKS,
    vgg.NETWORKS,
    convnext.NETWORKS,
    vision_transformer.NETWORKS,
    swin.NETWORKS,
    mlp_mixer.NETWORKS,
)

COUNTS = ("num_classes", "in_channels", "resolution", "hidden")  # options that are whole numbers above 0
CATALOGUE: dict[str, Entry] = {name: entry for family in FAMILIES for name, entry in family.items()}


def names() -> list[str]:
    """The networks that `create` knows, family by family."""
    return list(CATALOGUE)


def describe(name: str) -> Description:
    """What is published of the network `name`: paper, parameters, multiply-adds, top-1 and resolution."""
    return _entry(name).description


def options(name: str) -> list[str]:
    """The options that `create` takes for the network `name`."""
    return list(inspect.signature(_entry(name).build).parameters)


def create(name: str, **chosen: Any) -> nn.Module:
    """A new network of the architecture `name`, with random weights from torch's global generator.

    `chosen` are keyword arguments of the architecture (`num_classes`, `in_channels` and others: `options(name)`
    lists them). Raises `NetworkError` for an unknown name or option (the nearest ones are offered), for a value of
    another type, for one that the architecture refuses, and for a network larger than the memory that is free.
    """
    check_options(name, chosen)
    require_memory(name, _entry(name).build, chosen)
    try:
        return _entry(name).build(**chosen)
    except (ValueError, TypeError, RuntimeError) as error:
        raise NetworkError(f"{name} cannot be built with {chosen}: {described(error)}") from error


def check_options(name: str, chosen: Mapping[str, Any]) -> None:
    """Raise the `NetworkError` of `create` for an unknown name or option, or a value of another type."""
    parameters = inspect.signature(_entry(name).build).parameters
    for option in chosen:
        if option not in parameters:
            raise NetworkError(f"{name} has no option {option!r}{nearest(option, list(parameters))}")
        if option in COUNTS:
            check_count(option, chosen[option])
    check_types(name, parameters, chosen)


def _entry(name: str) -> Entry:
    if not isinstance(name, str) or name not in CATALOGUE:
        raise NetworkError(
            f"no architecture {name!r}{nearest(str(name), CATALOGUE)} (`tenfold models` lists them all)"
        )
    return CATALOGUE[name]
