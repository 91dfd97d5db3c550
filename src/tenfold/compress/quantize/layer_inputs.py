"""What a layer multiplies its weight with: its inputs as columns."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from tenfold.compress.columns import patch_columns
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


def columns_of(layer: Layer, x: Tensor, weight: Tensor) -> Iterator[Tensor]:
    """What each weight of an output is multiplied with, at every position of every example: parts of (G, K, N)."""
    if not layer.is_convolution:
        yield x.detach().reshape(1, -1, x.shape[-1]).transpose(1, 2)
        return
    kernel = weight.shape[2:]
    stride, padding, dilation = _geometry(layer, kernel)
    sides = [side for pair in reversed(padding) for side in pair]
    one = 4 * x[0].numel() * kernel.numel()
    for part in x.detach().split(max(1, CHUNK_BYTES // max(one, 1))):
        yield patch_columns(
            part, kernel, stride=stride, sides=sides, dilation=dilation, groups=groups_of(layer)
        )


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
