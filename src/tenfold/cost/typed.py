"""Inputs as people type them: `1x3x224x224`, `1x128:int64`, or `input_ids=1x128:int64,attention_mask=1x128:int64`."""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold.cost.calling import Inputs
from tenfold.errors import NetworkError

TYPES = {
    name: getattr(torch, name)
    for name in ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool")
}


def read_inputs(text: str, option: str = "--input") -> Inputs:
    """Zeros of the shapes and types in `text`: one tensor, several in order, or several by keyword.

    Raises `NetworkError` that quotes the part which cannot be read.
    """
    positional: list[Tensor] = []
    named: dict[str, Tensor] = {}
    for part in text.split(","):
        name, equals, description = part.strip().rpartition("=")
        tensor = _zeros(description, option)
        if not equals:
            positional.append(tensor)
        elif name.isidentifier() and name not in named:
            named[name] = tensor
        else:
            raise NetworkError(
                f"{option}: {part.strip()!r} needs a name of its own, as in input_ids=1x128:int64"
            )
    if positional and named:
        raise NetworkError(f"{option} {text!r}: give every input a name, or none")
    if named:
        return named
    return positional[0] if len(positional) == 1 else tuple(positional)


def _zeros(description: str, option: str) -> Tensor:
    shape, colon, name = description.strip().lower().partition(":")
    if colon and name not in TYPES:
        raise NetworkError(f"{option}: no type {name!r}; use one of {', '.join(TYPES)}")
    try:
        sizes = [int(part) for part in shape.split("x")]
    except ValueError:
        sizes = [0]
    if min(sizes) < 1:
        raise NetworkError(
            f"{option}: {description.strip()!r} is no shape: give whole numbers, as in 1x3x224x224"
        )
    return torch.zeros(sizes, dtype=TYPES[name or "float32"])
