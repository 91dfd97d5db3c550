"""Inputs as options name them: `1x3x224x224`, `1x128:int64`, `attention_mask=1x128`; and those a network expects.

The tensors are zeros where the network is, on the meta device too: counting needs shapes and types alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold.errors import BudgetError, NetworkError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from tenfold.cost import Inputs

EXAMPLE = "1x3x224x224, 1x128:int64 or input_ids=1x128"
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int8", "uint8", "bool")
TOKENS = 128  # in a sequence, where nothing says how many
_INPUT = re.compile(r"(?:([^\W\d]\w*)=)?([^:=]+)(?::(\w+))?")
_INTEGERS = ("_ids", "_mask", "tokens")  # how the names of inputs end that hold integers


def read_inputs(texts: Sequence[str], model: nn.Module, spec: str, batch: int | None) -> Any:
    """What `model` is to be counted with: a tuple of positional tensors, or a dict of keyword tensors.

    Without `texts`, what the network named `spec` expects. `batch` replaces the first size of every input. A type
    that is not given is that of the network's first layer: integers for an embedding, else its weights' type.
    Raises `BudgetError` for a text that cannot be read, naming the option.
    """
    import torch

    parsed = [_parsed(part) for text in texts for part in text.split(",")]
    parsed = parsed or _stored(spec) or [(None, expected(model, spec), None)]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    if len({name is None for name, _, _ in parsed}) == 2:
        raise BudgetError("--input: give all inputs a name (input_ids=1x128) or none")
    names = [name for name, _, _ in parsed if name is not None]
    if len(set(names)) < len(names):
        raise BudgetError(f"--input: {max(names, key=names.count)} is given twice")
    tensors = []
    for name, shape, dtype in parsed:
        sizes = (batch, *shape[1:]) if batch is not None else shape
        tensors.append(torch.zeros(sizes, dtype=dtype or _dtype(name, model), device=device))
    return dict(zip(names, tensors, strict=True)) if names else tuple(tensors)


def drawn_inputs(shape: str | None, model: nn.Module, spec: str) -> Inputs:
    """Inputs to run `model` on: of the shape in the option, else what the network named `spec` expects.

    Floats are drawn from a normal distribution, the same at every call; integers are 0.
    """
    import torch

    from tenfold.cost import map_inputs

    generator = torch.Generator().manual_seed(0)

    def drawn(zeros: torch.Tensor) -> torch.Tensor:
        return zeros.normal_(generator=generator) if zeros.is_floating_point() else zeros

    inputs = map_inputs(drawn, read_inputs([shape] if shape is not None else [], model, spec, None))
    return inputs[0] if isinstance(inputs, tuple) and len(inputs) == 1 else inputs


def _parsed(text: str) -> tuple[str | None, tuple[int, ...], torch.dtype | None]:
    import torch

    from tenfold.naming import nearest
    from tenfold.search.quantities import dimensions

    match = _INPUT.fullmatch(text.strip())
    if match is None:
        raise BudgetError(f"--input {text!r} cannot be read: give a shape, as in {EXAMPLE}")
    name, shape, dtype = match.groups()
    if dtype is not None and dtype not in DTYPES:
        raise BudgetError(f"--input {text!r}: no type {dtype!r}{nearest(dtype, DTYPES)}")
    return name, dimensions(shape), getattr(torch, dtype) if dtype else None


def _stored(spec: str) -> list[tuple[str | None, tuple[int, ...], torch.dtype | None]]:
    """What a saved network in the folder `spec` was saved with, for one example; nothing for another name."""
    import torch

    from tenfold.compress import is_saved, read_structure
    from tenfold.compress.saved import STRUCTURE

    if not is_saved(Path(spec)):
        return []
    inputs = read_structure(Path(spec) / STRUCTURE).inputs
    return [
        (name if inputs.kind == "dict" else None, (1, *one.shape[1:]), getattr(torch, one.dtype))
        for name, one in inputs.tensors
    ]


def _dtype(name: str | None, model: nn.Module) -> torch.dtype:
    """Integers for an input named so, or where the network begins with an embedding; else the weights' type."""
    import torch

    if (name is not None and name.endswith(_INTEGERS)) or takes_tokens(model):
        return torch.int64
    return weights_dtype(model)


def takes_tokens(model: nn.Module) -> bool:
    """Whether the first layer that has weights is an embedding."""
    from torch import nn

    for module in model.modules():
        # A network's own position or class tokens say nothing: the first layer is a module without children.
        leaf = next(module.children(), None) is None
        if leaf and next(module.parameters(recurse=False), None) is not None:
            return isinstance(module, (nn.Embedding, nn.EmbeddingBag))
    return False


def weights_dtype(model: nn.Module) -> torch.dtype:
    """The type of the first floating-point weight, float32 where there is none."""
    import torch

    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def expected(model: nn.Module, spec: str) -> tuple[int, ...]:
    """The shape, for one example, that the network was made for: as its options and its table, or its library, say.

    Else an image of 224×224.

    Raises `NetworkError` where it takes neither tokens nor images, so that the shape must be given.
    """
    from tenfold.models import describe, names, zoo_card
    from tenfold.models.external import parsed

    if spec.partition("?")[0] in names():
        name, given = parsed(spec)
        side = given.get("resolution", describe(name).resolution)
        return (1, given.get("in_channels", 3), side, side)
    source, _, name = spec.partition(":")
    if source == "zoo":
        return (1, *zoo_card(name).input_shape)
    config = getattr(model, "pretrained_cfg", None)  # timm's
    if isinstance(config, dict) and config.get("input_size"):
        return (1, *_resized(model, config["input_size"]))
    if takes_tokens(model):
        return (1, TOKENS)
    config = getattr(model, "config", None)  # that of transformers
    size = getattr(config, "image_size", None)
    if size is not None:
        height, width = size if isinstance(size, (tuple, list)) else (size, size)
        return (1, getattr(config, "num_channels", 3), height, width)
    if source == "hf" and getattr(model, "main_input_name", "pixel_values") != "pixel_values":
        raise NetworkError(
            f"{spec} takes {model.main_input_name}: give its shape, as in --input {model.main_input_name}=1x80x3000"
        )
    return (1, 3, 224, 224)


def _resized(model: nn.Module, size: Sequence[int]) -> tuple[int, ...]:
    """timm's size as the network was really made (`?in_chans=1&img_size=384`)."""
    channels, height, width = size
    first = next((p for p in model.parameters() if p.dim() == 4), None)
    embed = getattr(model, "patch_embed", None)
    made = getattr(embed, "img_size", None)
    if isinstance(made, (tuple, list)):
        height, width = made
    return (channels if first is None else int(first.shape[1]), height, width)
