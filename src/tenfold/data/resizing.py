"""Data on images of another side."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Subset

from tenfold.data.pixels import ByteImages
from tenfold.data.split import Split
from tenfold.data.task import Splits
from tenfold.errors import DataError

AT_ONCE = 2000  # images


def resized(data: Splits, side: int) -> Splits:
    """The same examples with images (C, side, side), bilinear and antialiased; bytes stay bytes.

    Raises `DataError` where the inputs are no images in memory.
    """
    if side < 1:
        raise DataError(f"images of {side} pixels cannot be made: give a side of at least 1")
    parts = [
        None if split is None else _resized(split, side, name)
        for name, split in (("train", data.train), ("validation", data.validation), ("test", data.test))
    ]
    return Splits(parts[0], parts[1], parts[2], data.classes)


def _resized(split: Split, side: int, name: str) -> Split:
    held: Any = split.dataset
    chosen: Any = slice(None)
    if isinstance(held, Subset):
        held, chosen = held.dataset, torch.as_tensor(held.indices, dtype=torch.long)
    if isinstance(held, ByteImages):
        return Split(ByteImages(_scaled(held.images[chosen], side), held.targets[chosen], held.scaling))
    if split.stacked is not None:
        inputs, targets = split.stacked
        if isinstance(inputs, Tensor) and inputs.ndim == 4:
            return Split((_scaled(inputs, side), targets))
    raise DataError(f"{name}: only images (N, C, H, W) that are in memory can be resized")


def _scaled(images: Tensor, side: int) -> Tensor:
    """(N, C, H, W) -> (N, C, side, side), of the same type."""
    if images.shape[2:] == (side, side):
        return images
    parts = []
    for part in images.split(AT_ONCE):
        values = F.interpolate(part.float(), (side, side), mode="bilinear", antialias=True)
        parts.append(values.to(part.dtype) if part.is_floating_point() else values.round().to(part.dtype))
    return torch.cat(parts)
