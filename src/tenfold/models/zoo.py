"""Networks that ship trained: `zoo:NAME` is an architecture by name with weights and a card beside them.

`weights/NAME.safetensors` holds the weights (fp16 or fp32), `weights/NAME.json` the card: what the network is,
what it was trained on, how well it does, and which script made it. A card may instead name the package that
carries the weights.
"""

from __future__ import annotations

import json
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tenfold.errors import NetworkError, OutputError
from tenfold.files import write_json, written
from tenfold.models.catalogue import create
from tenfold.models.packaged import PackagedWeights
from tenfold.models.preprocessing import Preprocessing
from tenfold.models.weights import load_weights
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
    preprocessing: Preprocessing | None = None
    package: PackagedWeights | None = None


def zoo_names(folder: Path | None = None, *, everything: bool = False) -> list[str]:
    """The networks whose weights are here: those that ship (or lie in another folder), and of installed packages.

    With `everything`, those of packages that could be installed as well.
    """
    folder = folder or WEIGHTS
    return [name for name in _cards(folder) if everything or _has_weights(name, folder)]


def zoo_card(name: str, folder: Path | None = None) -> Card:
    """The card of a network that ships; `NetworkError` with the nearest names where there is none."""
    folder = folder or WEIGHTS
    known = _cards(folder)
    if name not in known:
        raise NetworkError(
            f"no network zoo:{name}{nearest(f'zoo:{name}', [f'zoo:{each}' for each in known])}"
        )
    stored = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
    allowed = {field.name for field in fields(Card)}
    required = {field.name for field in fields(Card) if field.default is MISSING}
    if not required <= set(stored) <= allowed:
        raise NetworkError(f"the card of zoo:{name} must have the keys {', '.join(sorted(required))}")
    stored["input_shape"] = tuple(stored["input_shape"])
    for field, kind in (("preprocessing", Preprocessing), ("package", PackagedWeights)):
        if stored.get(field) is not None:
            stored[field] = kind(**stored[field])
    return Card(**stored)


def zoo_network(name: str, *, weights: bool = True, folder: Path | None = None) -> nn.Module:
    """The network in fp32 and eval mode, with its trained weights, or random ones if `weights` is False."""
    folder = folder or WEIGHTS
    card = zoo_card(name, folder)
    model = create(card.architecture, **card.options).eval()
    if not weights:
        return model
    try:
        load_weights(model, _read(name, card, folder))
    except NetworkError as error:
        text = f"the weights of zoo:{name} do not fit {card.architecture} {card.options}: {error}"
        raise NetworkError(text) from error
    return model


def _cards(folder: Path) -> list[str]:
    """The names of all cards in a folder that have, or could have, weights."""
    return sorted(path.stem for path in folder.glob("*.json"))


def _has_weights(name: str, folder: Path) -> bool:
    if (folder / f"{name}.safetensors").exists():
        return True
    package = zoo_card(name, folder).package
    return package is not None and package.path() is not None


def _read(name: str, card: Card, folder: Path) -> dict[str, Tensor]:
    """The stored weights in fp32."""
    try:
        stored = card.package.read() if card.package else load_file(folder / f"{name}.safetensors")
    except (OSError, SafetensorError, NetworkError) as error:
        raise NetworkError(f"the weights of zoo:{name} cannot be read: {error}") from error
    return {key: _as_fp32(tensor) for key, tensor in stored.items()}


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
    known = {key: value for key, value in asdict(card).items() if value is not None}
    write_json(folder / f"{name}.json", known)


def _as_fp32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
