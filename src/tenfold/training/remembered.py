"""A split whose inputs stay on a GPU once they were read, so that later passes wait neither for a disk nor for a copy."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from tenfold.cost import Inputs
from tenfold.data import Split
from tenfold.training.precision import sent

SHARE_OF_MEMORY = 0.25  # of what is free on the GPU


class Remembered(Split):
    """`split` with inputs on `device`, each read once; targets stay where they were.

    For inputs that are one tensor of the same shape for every example; others are read as ever.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self._stacked, self._dataset, self._device = split._stacked, split._dataset, device
        self._known = torch.zeros(len(split), dtype=torch.bool)
        self._seconds = 0.0  # that reading took
        inputs, targets = split.select([0])
        self._inputs: Tensor | None = None
        if isinstance(inputs, Tensor):
            self._inputs = torch.empty((len(split), *inputs.shape[1:]), dtype=inputs.dtype, device=device)
            self._targets = torch.empty((len(split), *targets.shape[1:]), dtype=targets.dtype)

    def select(self, indices: Sequence[int] | Tensor) -> tuple[Inputs, Tensor]:
        """The inputs, on the device, and the targets of these examples."""
        index = torch.as_tensor(indices, dtype=torch.long)
        if self._inputs is None or not self._read(index[~self._known[index]]):
            return super().select(indices)
        return self._inputs[sent(index, self._device)], self._targets[index]

    def waiting(self) -> float:
        """Seconds that reading takes of all that was not read yet, at the pace so far."""
        known = int(self._known.sum())
        if self._inputs is None or not known:
            return 0.0
        return (len(self) - known) * self._seconds / known

    def _read(self, index: Tensor) -> bool:
        """Read these examples; where one does not fit in with the rest, nothing is remembered any more."""
        if self._inputs is None or not len(index):
            return self._inputs is not None
        began = time.monotonic()
        inputs, targets = super().select(index)
        if not isinstance(inputs, Tensor) or not (
            alike(inputs, self._inputs) and alike(targets, self._targets)
        ):
            self._inputs = None
            return False
        self._inputs[sent(index, self._device)] = sent(inputs, self._device)
        self._targets[index] = targets
        self._known[index] = True
        self._seconds += time.monotonic() - began
        return True


def alike(one: Tensor, other: Tensor) -> bool:
    """Whether their examples have one shape and type."""
    return one.shape[1:] == other.shape[1:] and one.dtype == other.dtype


def remembered(split: Split, device: torch.device) -> Split:
    """The split with inputs that stay on the GPU, if it is one and they take no more than a quarter of its free memory."""
    if device.type != "cuda":
        return split
    inputs, _ = split.select([0])
    if not isinstance(inputs, Tensor):
        return split
    free, _ = torch.cuda.mem_get_info(device)
    return Remembered(split, device) if inputs.nbytes * len(split) <= SHARE_OF_MEMORY * free else split
