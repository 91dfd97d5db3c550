"""Networks that ship trained: `zoo:NAME` is an architecture by name with weights and a card beside them.

`weights/NAME.safetensors` holds the weights (fp16 or fp32), `weights/NAME.json` the card: what the network is,
what it was trained on, how well it does, and which script made it.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tenfold.errors import NetworkError, OutputError
from tenfold.files import write_json, written
from tenfold.models.catalogue import create
from tenfold.naming import nearest

WEIGHTS = Path(__file__).parent / "weights"


@dataclass(frozen=True)
class Card:
    """What is known of a network that ships: `options` go to `create`, `input_shape` is without the batch."""

    architecture: str
    options: dict[str, Any]
    input_shape: tuple[int, ...]
    data: str
    accuracy: dict[str, float]  # split -> share of right answers
    licence: str
    script: str


def zoo_names(folder: Path | None = None) -> list[str]:
    """The networks that ship, or those in another folder."""
    folder = folder or WEIGHTS
    return sorted(path.stem for path in folder.glob("*.json") if path.with_suffix(".safetensors").exists())


def zoo_card(name: str, folder: Path | None = None) -> Card:
    """The card of a network that ships; `NetworkError` with the nearest names where there is none."""
    folder = folder or WEIGHTS
    known = zoo_names(folder)
    if name not in known:
        raise NetworkError(f"no network zoo:{name}{nearest(name, known)}")
    stored = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    wanted = {field.name for field in fields(Card)}
    if set(stored) != wanted:
        raise NetworkError(f"the card of zoo:{name} must have exactly the keys {', '.join(sorted(wanted))}")
    return Card(**{**stored, "input_shape": tuple(stored["input_shape"])})


def zoo_network(name: str, *, weights: bool = True, folder: Path | None = None) -> nn.Module:
    """The network in fp32 and eval mode, with its trained weights, or random ones if `weights` is False."""
    folder = folder or WEIGHTS
    card = zoo_card(name, folder)
    model = create(card.architecture, **card.options).eval()
    if not weights:
        return model
    try:
        stored = load_file(folder / f"{name}.safetensors")
    except (OSError, SafetensorError) as error:
        raise NetworkError(f"the weights of zoo:{name} cannot be read: {error}") from error
    try:
        model.load_state_dict({key: _as_fp32(tensor) for key, tensor in stored.items()}, strict=True)
    except RuntimeError as error:
        text = f"the weights of zoo:{name} do not fit {card.architecture} {card.options}: {error}"
        raise NetworkError(text) from error
    return model


def store(name: str, model: nn.Module, card: Card, *, half: bool = True, folder: Path | None = None) -> None:
    """Write weights and card of a network that is to ship; `half` stores floating-point weights as fp16."""
    folder = folder or WEIGHTS
    state: dict[str, Tensor] = {}
    for key, tensor in model.state_dict().items():
        value = tensor.detach().cpu().contiguous()
        if half and value.is_floating_point():
            value = value.half()
            if not torch.isfinite(value).all():
                raise NetworkError(f"{key} does not fit fp16: store the network with half=False")
        state[key] = value
    with written(folder / f"{name}.safetensors") as temporary:
        try:
            save_file(state, temporary)
        except SafetensorError as error:
            raise OutputError(f"cannot write the weights of {name}: {error}") from error
    write_json(folder / f"{name}.json", asdict(card))


def _as_fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
