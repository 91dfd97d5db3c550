"""Checkpoints: everything a run needs to go on as if it had never stopped, in one safetensors file.

Tensors by name: `model.…`, `average.…`, `optimizer.PARAMETER|KEY`, `random.…`. The rest is JSON in the file's own
metadata, so that both are always of the same moment. Written whole or not at all; nothing is pickled. A SHA-256 over
both tells whether they are what was written; files of version 1 have none.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tenfold.errors import NetworkError, OutputError
from tenfold.files import written
from tenfold.training.digests import add_tensors

CHECKPOINT = "checkpoint.safetensors"
VERSION = 2
_UNCHECKED = 1  # the version that has no checksum yet
_KEY, _CHECKSUM = "tenfold", "sha256"
_NAMED = 3  # differences that a message names


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write tensors and JSON facts to `path`, in place of the checkpoint before."""
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    text = json.dumps({"version": VERSION, **facts}, allow_nan=False)
    with written(path) as temporary:
        try:
            save_file(stored, temporary, {_KEY: text, _CHECKSUM: _checksum(text, stored)})
        except SafetensorError as error:
            raise OutputError(f"cannot write {path}: {error}") from error


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the facts of a checkpoint; `OutputError` where it is none, or is damaged."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        if _KEY not in metadata:
            raise ValueError("it is no checkpoint of a training run")
        facts = json.loads(metadata[_KEY])
        version = facts.get("version")
        if version not in (_UNCHECKED, VERSION):
            raise ValueError(f"it has version {version}, this Tenfold reads versions up to {VERSION}")
        if version == VERSION and metadata.get(_CHECKSUM) != _checksum(metadata[_KEY], tensors):
            raise ValueError("it is damaged, for its checksum does not hold")
    except (OSError, SafetensorError, ValueError, AttributeError) as error:
        raise OutputError(f"{path} cannot be read: {error}") from error
    return tensors, facts


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    add_tensors(digest, tensors)
    return digest.hexdigest()


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix.`, without it."""
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors under `prefix.NAME`."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}


def write_weights(model: nn.Module, path: Path, *, half: bool = False) -> None:
    """The network's state dict as safetensors; `half` stores floating-point tensors in fp16."""
    state = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    stored = {
        name: (t.half() if half and t.is_floating_point() else t).contiguous().clone()
        for name, t in state.items()
    }
    with written(path) as temporary:
        save_file(stored, temporary)


def read_weights(path: Path) -> dict[str, Tensor]:
    """What `write_weights` wrote, in fp32."""
    return {name: t.float() if t.is_floating_point() else t for name, t in load_file(path).items()}


def require_fit(model: nn.Module, stored: Mapping[str, Tensor], source: str) -> None:
    """Raise a `NetworkError` that sums up what differs, unless `stored` has the model's names and shapes."""
    own = model.state_dict(keep_vars=True)
    missing, unexpected = sorted(own.keys() - stored.keys()), sorted(stored.keys() - own.keys())
    shapes = [
        f"{name} is {tuple(stored[name].shape)}, here {tuple(own[name].shape)}"
        for name in sorted(own.keys() & stored.keys())
        if own[name].shape != stored[name].shape
    ]
    found = [
        f"{what} {_few(names)}"
        for what, names in (("missing:", missing), ("unexpected:", unexpected), ("other shapes:", shapes))
        if names
    ]
    if found:
        raise NetworkError(f"{source} is of another network; {'; '.join(found)}")


@torch.no_grad()
def load_weights(model: nn.Module, stored: Mapping[str, Tensor], source: str) -> None:
    """Copy `stored` into the model's own tensors: all of them, or none and a `NetworkError`."""
    require_fit(model, stored, source)
    for name, tensor in model.state_dict(keep_vars=True).items():
        tensor.copy_(stored[name])


def optimizer_tensors(rule: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state by the names of the parameters, as `PARAMETER|KEY`."""
    return {
        f"{name}|{key}": value
        for name, parameter in model.named_parameters()
        for key, value in rule.state.get(parameter, {}).items()
        if isinstance(value, Tensor)
    }


def load_optimizer(
    rule: torch.optim.Optimizer, model: nn.Module, stored: Mapping[str, Tensor], source: str
) -> None:
    """Put state from `optimizer_tensors` into a new optimiser; counters go where this optimiser keeps them."""
    parameters = dict(model.named_parameters())
    for key, value in stored.items():
        name, _, entry = key.rpartition("|")
        if name not in parameters:
            raise NetworkError(f"{source} is of another network; unexpected: the state of {name}")
        parameter = parameters[name]
        if value.ndim > 0:
            placed = torch.empty_like(parameter).copy_(value)  # in the parameter's memory format
        else:
            fused = any(group.get("fused") for group in rule.param_groups)
            placed = value.to(parameter.device if fused else "cpu", copy=True)
        rule.state[parameter][entry] = placed


def _few(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
