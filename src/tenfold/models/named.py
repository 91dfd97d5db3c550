"""Networks that a file may name: `zoo:NAME`, `timm:NAME`, `hf:NAME_OR_FOLDER`, and architectures of the catalogue.

Of the catalogue the name alone is given, with options where they are wanted: `mobilenet_v2?width=0.5&num_classes=10`.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tenfold.errors import NetworkError
from tenfold.models.catalogue import create, names
from tenfold.models.external import hf_network, parsed, said_to_be_random, timm_network
from tenfold.models.zoo import zoo_network
from tenfold.naming import nearest


def catalogue_network(spec: str, *, weights: bool = True) -> nn.Module:
    """The network `NAME[?option=value&…]` of the catalogue in eval mode, with random weights."""
    name, options = parsed(spec)
    if weights:
        said_to_be_random(f"{name} has random weights; zoo:NAME names a trained network")
    return create(name, **options).eval()


SOURCES: dict[str, Callable[..., nn.Module]] = {"zoo": zoo_network, "timm": timm_network, "hf": hf_network}


def is_named(spec: str) -> bool:
    """Whether `spec` begins with `zoo:`, `timm:` or `hf:`, or is a name of the catalogue."""
    return (spec.partition(":")[0] in SOURCES and ":" in spec) or spec.partition("?")[0] in names()


def named_network(spec: str, *, weights: bool = True) -> nn.Module:
    """The network in eval mode. With `weights` False only its structure counts, and no weights are fetched.

    Where weights are random they are those of seed 0, so that a name always means the same network; the caller's
    random generator is left as it was.
    """
    if not is_named(spec):
        raise NetworkError(
            f"{spec!r} is none of zoo:NAME, timm:NAME, hf:NAME_OR_FOLDER and the names that `tenfold models` lists"
            f"{nearest(spec.partition('?')[0], names())}"
        )
    source, colon, name = spec.partition(":")
    build, given = (SOURCES[source], name) if colon else (catalogue_network, spec)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(given, weights=weights)
