"""All parameters and buffers of a network as one flat set of tensors for safetensors, and back.

Non-persistent buffers are among them: a technique may have changed them, and no constructor knows. Tensors that
are one (tied weights) are written once; the others' names are kept, and tied again when they are read.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from tenfold.errors import NetworkError, RecipeError

LISTED = 4  # names given in a message before the rest is counted


def packed(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, on the CPU and contiguous, and for each further name of a tensor the first one."""
    tensors: dict[str, Tensor] = {}
    shared: dict[str, str] = {}
    first_name: dict[tuple[object, ...], str] = {}
    storages: set[int] = set()
    for name, value in all_tensors(model).items():
        if value.is_meta:
            raise NetworkError(f"{name} is on the meta device: it has no values to save")
        if value.layout is not torch.strided or value.is_quantized:
            raise NetworkError(
                f"{name} is {value.layout} or quantised by torch: only dense tensors can be saved"
            )
        identity = (value.device, value.data_ptr(), value.dtype, tuple(value.shape), value.stride())
        if value.numel() and identity in first_name:
            shared[name] = first_name[identity]
            continue
        first_name[identity] = name
        dense = value.detach().cpu().contiguous()
        storage = dense.untyped_storage()
        # Tensors that overlap in one storage, or fill only a part of theirs, cannot be written as they are.
        if storage.data_ptr() in storages or storage.nbytes() != dense.nbytes:
            dense = dense.clone()
        storages.add(storage.data_ptr())
        tensors[name] = dense
    return tensors, shared


def all_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The state dict and the non-persistent buffers, every name of a tied tensor included."""
    found: dict[str, Tensor] = {}
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise NetworkError(f"{name} holds a {type(value).__name__}: only tensors can be saved")
        found[name] = value
    for name, buffer in model.named_buffers(remove_duplicate=False):
        found.setdefault(name, buffer)
    return found


def put(model: nn.Module, tensors: Mapping[str, Tensor], shared: Mapping[str, str]) -> None:
    """Give `model` these tensors, all of its own and no others. `RecipeError` sums up what does not match."""
    given = dict(tensors)
    for name, first in shared.items():
        if first not in tensors or name in tensors:
            raise RecipeError(f"the shared tensor {name!r} does not go with the weights")
        given[name] = tensors[first]
    own = all_tensors(model)
    _require_match(own, given)
    persistent = model.state_dict().keys()
    try:
        model.load_state_dict({name: given[name] for name in persistent}, strict=True, assign=True)
    except RuntimeError as error:
        raise RecipeError(f"the weights do not fit: {str(error).splitlines()[-1].strip()}") from error
    for name in own.keys() - persistent:
        owner, leaf = _owner(model, name)
        owner._buffers[leaf] = given[name]
    for name, first in shared.items():
        owner, leaf = _owner(model, name)
        other, other_leaf = _owner(model, first)
        if leaf in owner._parameters and other_leaf in other._parameters:
            owner._parameters[leaf] = other._parameters[other_leaf]


def _require_match(own: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> None:
    missing = sorted(own.keys() - given.keys())
    unexpected = sorted(given.keys() - own.keys())
    differing = [
        f"{name} is {_form(given[name])}, wanted {_form(own[name])}"
        for name in sorted(own.keys() & given.keys())
        if own[name].shape != given[name].shape
        or own[name].is_floating_point() != given[name].is_floating_point()
    ]
    parts = [
        f"{len(names)} {word} ({', '.join(names[:LISTED])}{', …' if len(names) > LISTED else ''})"
        for names, word in ((missing, "missing"), (unexpected, "unexpected"), (differing, "differing"))
        if names
    ]
    if parts:
        raise RecipeError(f"the weights do not match the network: {'; '.join(parts)}")


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _owner(model: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return model.get_submodule(path), leaf
