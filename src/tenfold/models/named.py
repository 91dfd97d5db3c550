"""Networks that a file may name: `zoo:NAME`, `timm:NAME` and `hf:NAME_OR_FOLDER`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from tenfold.errors import NetworkError
from tenfold.models.external import hf_network, timm_network
from tenfold.models.zoo import zoo_network

SOURCES: dict[str, Callable[..., nn.Module]] = {"zoo": zoo_network, "timm": timm_network, "hf": hf_network}


def is_named(spec: str) -> bool:
    """Whether `spec` begins with `zoo:`, `timm:` or `hf:`."""
    return spec.partition(":")[0] in SOURCES and ":" in spec


def named_network(spec: str, *, weights: bool = True) -> nn.Module:
    """The network in eval mode. With `weights` False only its structure counts, and no weights are fetched.

    Where weights are random they are those of seed 0, so that a name always means the same network; the caller's
    random generator is left as it was.
    """
    source, _, name = spec.partition(":")
    if not is_named(spec):
        raise NetworkError(f"{spec!r} is none of zoo:NAME, timm:NAME, hf:NAME_OR_FOLDER")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return SOURCES[source](name, weights=weights)
