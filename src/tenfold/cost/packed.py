"""Weights that a quantised layer keeps packed for its kernel, in an object that is no tensor and no parameter.

The layers of `torch.ao.nn.quantized` do: their `parameters()` are empty, and a counter that trusts those reports
a network without weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves


def packed_in(tree: Any) -> list[torch.ScriptObject]:
    """The packed objects in any nested structure, in order."""
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.ScriptObject)]


def packed_of(module: nn.Module) -> list[torch.ScriptObject]:
    """The packed objects that are attributes of `module` itself, its children's left out."""
    return packed_in([value for key, value in vars(module).items() if key != "_modules"])


def unpacked(packed: torch.ScriptObject) -> list[Tensor]:
    """The weight and the bias of a packed layer; of a recurrent cell all of its tensors."""
    unpack = getattr(packed, "unpack", None)
    tree = unpack() if unpack is not None else packed.__getstate__()
    found = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
    return found + [tensor for inner in packed_in(tree) for tensor in unpacked(inner)]


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a weight as it is stored: of a quantised one its integers and the scales and zero points of its channels."""
    size = tensor.numel() * tensor.element_size()
    if tensor.is_quantized and tensor.qscheme() in (
        torch.per_channel_affine, torch.per_channel_affine_float_qparams,
    ):  # fmt: skip
        size += tensor.q_per_channel_scales().nbytes + tensor.q_per_channel_zero_points().nbytes
    return size


def bytes_of(objects: Iterable[torch.ScriptObject]) -> int:
    """Bytes of all tensors in the packed objects."""
    return sum(stored_bytes(tensor) for packed in objects for tensor in unpacked(packed))
