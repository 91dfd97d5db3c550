"""Views: fixed ways to show an example, the same to teacher and student.

"Consistent teaching" (Beyer et al., 2022, "Knowledge distillation: A good teacher is patient and consistent"):
the teacher must be asked about exactly what the student sees. Views are few and fixed, so that its answers can be
kept. Shifted inputs taught by the answers to unshifted ones lose accuracy; taught by its answers to the shifted ones
they gain: half a point on CIFAR-10, for a ResNet-56 healed by four passes over 5,000 images.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TypeGuard

import torch
from torch import Tensor

from tenfold.cost import Inputs
from tenfold.training.precision import sent


class View(Enum):
    """A fixed way to show an example."""

    IDENTITY = "identity"
    # Of images (N, C, H, W) only: mirrored left to right, or shifted by a tenth of the side, the edge drawn out.
    FLIP = "flip"
    UP = "up"
    DOWN = "down"
    LEFT = "left"
    RIGHT = "right"


SHIFTS = {View.UP: (-1, 0), View.DOWN: (1, 0), View.LEFT: (0, -1), View.RIGHT: (0, 1)}  # of rows and columns
SHIFT = 10  # that part of a side


@dataclass(frozen=True)
class Batch:
    """What one step sees: the `indices` (N,) of the examples, their `inputs` as shown, `targets`, and the `views`
    (N,) they are shown in, as positions in the tuple of views in use. Where they were `mixed` with each other, the
    targets are not theirs alone."""

    indices: Tensor
    inputs: Inputs
    targets: Tensor
    views: Tensor
    mixed: bool = False


def is_image(inputs: Inputs) -> TypeGuard[Tensor]:
    """Whether inputs are float images (N, C, H, W), which alone have other views than the identity."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.is_floating_point()


def show(inputs: Inputs, views: Tensor, kinds: tuple[View, ...]) -> Inputs:
    """Each example i of `inputs` in the view kinds[views[i]]."""
    if kinds == (View.IDENTITY,):
        return inputs
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        raise ValueError("views other than the identity are for images (N, C, H, W) only")
    height, width = inputs.shape[2:]
    whence = sent(views, inputs.device)
    whence = sources(kinds, height, width, inputs.device)[whence]  # (N, H·W)
    shown = inputs.flatten(2).gather(2, whence[:, None].expand(-1, inputs.shape[1], -1)).view(inputs.shape)
    return shown if shown.stride() == inputs.stride() else torch.empty_like(inputs).copy_(shown)


@lru_cache(maxsize=16)
def sources(kinds: tuple[View, ...], height: int, width: int, device: torch.device) -> Tensor:
    """For each view and pixel of it, the pixel (row · width + column) of the image that is there: (views, H·W)."""
    pixels = torch.arange(height * width).view(1, 1, height, width)
    return torch.stack([seen(pixels, view).flatten() for view in kinds]).to(device)


def seen(images: Tensor, view: View) -> Tensor:
    """All images (N, C, H, W) in a view."""
    if view is View.IDENTITY:
        return images
    if view is View.FLIP:
        return images.flip(3)
    for dim, direction in zip((2, 3), SHIFTS[view], strict=True):
        if direction:
            side = images.shape[dim]
            places = torch.arange(side, device=images.device) - direction * max(1, side // SHIFT)
            images = images.index_select(dim, places.clamp(0, side - 1))
    return images


def view_of(indices: Tensor, epoch: int, kinds: tuple[View, ...]) -> Tensor:
    """Which view each example has in this epoch: all in turn, and about equally many of each in any batch."""
    return (indices + epoch) % len(kinds)
