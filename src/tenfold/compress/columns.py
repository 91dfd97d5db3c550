"""What a convolution multiplies its weight with: the patches of its input, as the columns of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def patch_columns(
    x: Tensor,
    kernel: Sequence[int],
    *,
    stride: Sequence[int],
    sides: Sequence[int],
    dilation: Sequence[int],
    groups: int,
    mode: str = "constant",
) -> Tensor:
    """(N, C, *space) -> (groups, C / groups · taps, N · places), in the order of the weight.

    `sides` are the padding before and after each dimension of space, the last dimension first, as `F.pad` takes them,
    with its `mode`; the others have a number for each dimension.
    """
    if any(sides):
        x = F.pad(x, list(sides), mode=mode)
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
    stacked = torch.stack(patches, dim=2)  # (N, C, taps, places)
    number, channels, taps, places = stacked.shape
    columns = stacked.reshape(number, groups, channels // groups * taps, places)
    return columns.permute(1, 2, 0, 3).reshape(groups, channels // groups * taps, number * places)
