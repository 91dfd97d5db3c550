"""Narrowing: a copy of the user's module with fewer entries along some dimensions of its tensors."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tenfold.compress.prune.program import named_tensors
from tenfold.errors import RecipeError

Indices = Mapping[str, Mapping[int, list[int]]]
Attributes = Mapping[str, Mapping[str, int | list[int]]]


@dataclass(frozen=True)
class Narrowing:
    """Kept indices for each tensor and dimension, and the whole numbers in modules that count them."""

    indices: Indices
    attributes: Attributes

    def apply(self, model: nn.Module) -> nn.Module:
        """A deep copy of `model`, narrowed. Tensors stay tied; `model` is left alone.

        Raises `RecipeError` where a tensor, a dimension, an index or an attribute does not fit `model`.
        """
        tensors = named_tensors(model)
        memo: dict[int, Any] = {}
        for name, dims in self.indices.items():
            if name not in tensors:
                raise RecipeError(f"the network has no parameter or buffer {name!r} to narrow")
            tensor = tensors[name]
            memo[id(tensor)] = _selected(name, tensor, dims)
        narrowed = copy.deepcopy(model, memo)
        modules = dict(narrowed.named_modules())
        for path, values in self.attributes.items():
            if path not in modules:
                raise RecipeError(f"the network has no module {path!r} to narrow")
            for attribute, value in values.items():
                _set_whole_number(modules[path], path, attribute, value)
        touched = {name.rpartition(".")[0] for name in self.indices} | set(self.attributes)
        tied = {id(memo[id(tensors[name])]) for name in self.indices}
        for path, module in modules.items():
            own = (*module._parameters.values(), *module._buffers.values())
            if path in touched or any(id(tensor) in tied for tensor in own):
                set_sizes(module)
        return narrowed

    def to_json(self) -> dict[str, Any]:
        """Plain JSON. Most index lists occur many times, so they are kept in one table."""
        table: dict[tuple[int, ...], int] = {}
        tensors = {
            name: {str(dim): table.setdefault(tuple(kept), len(table)) for dim, kept in dims.items()}
            for name, dims in self.indices.items()
        }
        return {
            "kept": [list(kept) for kept in table],
            "tensors": tensors,
            "attributes": {path: dict(values) for path, values in self.attributes.items()},
        }

    @classmethod
    def from_json(cls, data: Any) -> Narrowing:
        """What `to_json` wrote; `RecipeError` where it is malformed."""
        try:
            table = [[int(i) for i in kept] for kept in data["kept"]]
            indices = {
                str(name): {int(dim): table[int(entry)] for dim, entry in dims.items()}
                for name, dims in data["tensors"].items()
            }
            attributes = {
                str(path): {
                    str(attribute): [int(v) for v in value] if isinstance(value, list) else int(value)
                    for attribute, value in values.items()
                }
                for path, values in data["attributes"].items()
            }
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise RecipeError(
                f"the pruned structure is malformed: {type(error).__name__}: {error}"
            ) from error
        return cls(indices, attributes)


def _selected(name: str, tensor: Tensor, dims: Mapping[int, list[int]]) -> Tensor:
    narrow = tensor.detach()
    for dim, kept in dims.items():
        if not 0 <= dim < narrow.dim():
            raise RecipeError(f"{name} has {narrow.dim()} dimensions, so none numbered {dim} to narrow")
        if not kept or min(kept) < 0 or max(kept) >= narrow.shape[dim]:
            raise RecipeError(
                f"{name}: the kept indices do not fit its dimension {dim} of {narrow.shape[dim]}"
            )
        narrow = narrow.index_select(dim, torch.tensor(kept, device=narrow.device))
    narrow = narrow.clone(memory_format=torch.contiguous_format)
    return nn.Parameter(narrow, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else narrow


def _set_whole_number(module: nn.Module, path: str, attribute: str, value: int | list[int]) -> None:
    present = vars(module).get(attribute)
    if type(present) is int and isinstance(value, int):
        setattr(module, attribute, value)
    elif isinstance(present, tuple) and isinstance(value, list) and len(present) == len(value):
        setattr(module, attribute, tuple(value))
    else:
        raise RecipeError(f"{path or 'the network'}: {attribute!r} is not a whole number that could be set")


def set_sizes(module: nn.Module) -> None:
    """Bring the size attributes of PyTorch's own layers in line with their tensors."""
    weight = getattr(module, "weight", None)
    shape = tuple(weight.shape) if isinstance(weight, Tensor) else ()
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = shape
    elif isinstance(module, _ConvTransposeNd):
        module.in_channels, module.out_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, _ConvNd):
        module.out_channels, module.in_channels = shape[0], shape[1] * module.groups
    elif isinstance(module, _NormBase):
        vector = weight if isinstance(weight, Tensor) else module.running_mean
        if isinstance(vector, Tensor):
            module.num_features = len(vector)
    elif isinstance(module, (nn.LayerNorm, nn.RMSNorm)):
        if shape:
            module.normalized_shape = shape
    elif isinstance(module, nn.GroupNorm):
        if shape:
            module.num_channels = shape[0]
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = shape[1]
    elif isinstance(module, nn.PReLU):
        module.num_parameters = shape[0]
