"""What the catalogue holds of a network: how it is built, and what is published about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Description:
    """A network as it is published: with the default options of `create`, on square images of `resolution`.

    `params` and `macs` (multiply-adds of one image: convolutions, linear layers and the products of attention)
    are data here, so that a table of all networks needs no counting; a test counts each and compares.
    `top1` is in percent on the test set of `data`, by whoever `top1_source` says; None where nobody published one.
    """

    name: str
    family: str
    paper: str  # authors, year, title, arXiv number
    resolution: int
    params: int
    macs: int
    top1: float | None = None
    top1_source: str = ""
    data: str = "ImageNet-1k"


@dataclass(frozen=True)
class Entry:
    """`build` takes the options of `create` as keyword arguments, all with defaults, and returns the network."""

    build: Callable[..., nn.Module]
    description: Description


def catalogued(*entries: Entry) -> dict[str, Entry]:
    """The entries of a family by their names."""
    return {entry.description.name: entry for entry in entries}
