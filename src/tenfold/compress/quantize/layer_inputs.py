"""What a layer multiplies its weight with: its inputs as columns, and their second moments X Xᵀ."""

from __future__ import annotations

from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.compress.quantize.layers import Layer, convolution_arguments

CHUNK_BYTES = 2**27  # of unfolded inputs held at once


def matrix_of(weight: Tensor, axis: int) -> Tensor:
    """A weight as (R, K): a row for each output channel, which stand along `axis`."""
    return weight.movedim(axis, 0).flatten(1)


def weight_of(matrix: Tensor, shape: tuple[int, ...], axis: int) -> Tensor:
    """The weight of this shape that `matrix_of` made `matrix` (R, K) from."""
    moved = [shape[axis], *(size for dim, size in enumerate(shape) if dim != axis)]
    return matrix.reshape(moved).movedim(0, axis).contiguous()


def groups_of(layer: Layer) -> int:
    """In how many parts the layer's channels are, each with its own inputs: 1 but for a grouped convolution."""
    if not layer.is_convolution:
        return 1
    node = layer.node
    return int(node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1))  # type: ignore[arg-type]


def second_moments(layer: Layer, x: Tensor, weight: Tensor) -> Tensor:
    """H = X Xᵀ over all positions of all examples of the layer's input `x`: float64 (G, K, K)."""
    if not layer.is_convolution:
        columns = x.detach().reshape(-1, x.shape[-1])
        return (columns.T @ columns).double()[None]
    groups = groups_of(layer)
    width = weight[0].numel()
    total = torch.zeros(groups, width, width, dtype=torch.float64, device=x.device)
    one = 4 * x[0].numel() * weight[0, 0].numel()
    for part in x.detach().split(max(1, CHUNK_BYTES // max(one, 1))):
        columns = unfolded(layer, part, weight.shape[2:], groups)
        total += (columns @ columns.transpose(1, 2)).double()
    return total


def unfolded(layer: Layer, x: Tensor, kernel: torch.Size, groups: int) -> Tensor:
    """The patches that a convolution sees, (N, C, *space) -> (G, K, N · positions), in the order of its weight."""
    stride, padding, dilation = _geometry(layer, kernel)
    x = F.pad(x, [side for pair in reversed(padding) for side in pair])
    sizes = [
        (x.shape[2 + d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in range(len(kernel))
    ]
    patches = []
    for offset in product(*map(range, kernel)):
        window: list[Any] = [slice(None), slice(None)]
        for d, place in enumerate(offset):
            first = place * dilation[d]
            window.append(slice(first, first + stride[d] * (sizes[d] - 1) + 1, stride[d]))
        patches.append(x[tuple(window)].flatten(2))
    stacked = torch.stack(patches, dim=2)  # (N, C, kernel, positions)
    number, channels, taps, places = stacked.shape
    columns = stacked.reshape(number, groups, channels // groups * taps, places)
    return columns.permute(1, 2, 0, 3).reshape(groups, channels // groups * taps, number * places)


def _geometry(layer: Layer, kernel: torch.Size) -> tuple[list[int], list[tuple[int, int]], list[int]]:
    """Stride, (before, after) padding and dilation for each dimension of space."""
    arguments = convolution_arguments(layer)
    if arguments is not None:
        stride, padding, dilation, _ = arguments
        return stride, [(p, p) for p in padding], dilation
    # padding="same" with an odd total: the greater half stands at the end, and the stride is 1.
    node = layer.node
    given = node.args[5] if len(node.args) > 5 else node.kwargs.get("dilation", 1)
    dilation = list(given) if isinstance(given, (list, tuple)) else [given]  # type: ignore[list-item]
    dilation = dilation * len(kernel) if len(dilation) == 1 else dilation
    totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
    return [1] * len(kernel), [(t // 2, t - t // 2) for t in totals], dilation
