"""Weights that a quantised layer keeps packed for its kernel, in an object that is no tensor and no parameter.

The layers of `torch.ao.nn.quantized` do: their `parameters()` are empty, and a counter that trusts those reports
a network without weights.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
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
    inner = packed_in(
        tree
    )  # a cell's matrices, packed with their biases, which its state lists a second time
    if inner:
        return [tensor for part in inner for tensor in unpacked(part)]
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def plain(tensor: Tensor) -> list[Tensor]:
    """A tensor itself; of one that is made of tensors (a subclass that wraps others), those that hold its data."""
    if not is_traceable_wrapper_subclass(tensor):
        return [tensor]
    names, _ = tensor.__tensor_flatten__()
    return [part for name in names for part in plain(getattr(tensor, name))]


def stored_bytes(tensor: Tensor) -> int:
    """Bytes of a weight as it is stored: of a quantised one its integers and its channels' scales and zero points."""
    parts = plain(tensor)
    if parts[0] is not tensor:
        return sum(map(stored_bytes, parts))
    size = tensor.numel() * tensor.element_size()
    if tensor.is_quantized and tensor.qscheme() in (
        torch.per_channel_affine, torch.per_channel_affine_float_qparams,
    ):  # fmt: skip
        size += tensor.q_per_channel_scales().nbytes + tensor.q_per_channel_zero_points().nbytes
    return size


def bytes_of(objects: Iterable[torch.ScriptObject]) -> int:
    """Bytes of all tensors in the packed objects."""
    return sum(stored_bytes(tensor) for packed in objects for tensor in unpacked(packed))
