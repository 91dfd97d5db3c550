"""Views: fixed ways to show an example, the same to teacher and student.

"Consistent teaching" (Beyer et al., 2022, "Knowledge distillation: A good teacher is patient and consistent"):
the teacher must be asked about exactly what the student sees. Views are few and fixed, so that its answers can be
kept. Shifted inputs taught by the answers to unshifted ones lose accuracy.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from tenfold.cost import Inputs


class View(Enum):
    """A fixed way to show an example."""

    IDENTITY = "identity"
    FLIP = "flip"  # mirrored left to right; images (N, C, H, W) only


@dataclass(frozen=True)
class Batch:
    """What one step sees: the `indices` (N,) of the examples, their `inputs` as shown, `targets`, and the `views`
    (N,) they are shown in, as positions in the tuple of views in use."""

    indices: Tensor
    inputs: Inputs
    targets: Tensor
    views: Tensor


def is_image(inputs: Inputs) -> bool:
    """Whether inputs are float images (N, C, H, W), which alone have a mirror view."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.is_floating_point()


def show(inputs: Inputs, views: Tensor, kinds: tuple[View, ...]) -> Inputs:
    """Each example i of `inputs` in the view kinds[views[i]]."""
    if View.FLIP not in kinds:
        return inputs
    if not isinstance(inputs, Tensor) or inputs.ndim != 4:
        raise ValueError("the flip view is for images (N, C, H, W) only")
    mirrored = (views == kinds.index(View.FLIP)).to(inputs.device)
    return torch.where(mirrored[:, None, None, None], inputs.flip(3), inputs)


def view_of(indices: Tensor, epoch: int, kinds: tuple[View, ...]) -> Tensor:
    """Which view each example has in this epoch: all in turn, and about equally many of each in any batch."""
    return (indices + epoch) % len(kinds)
