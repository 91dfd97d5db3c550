"""Which examples a network is healed on, which it is judged on, and how many of them at once."""

from __future__ import annotations

import math

import torch
from torch import nn

from tenfold.cost import Inputs, profile
from tenfold.data import Split
from tenfold.errors import NetworkError

FEW_STEPS = 8  # batches shrink until an epoch has at least this many steps …
SMALLEST_BATCH = 8  # … but not below this
# As well, where a step takes as long as its examples do: passes are few, and it is steps that heal.
MANY_STEPS, SMALL_BATCH = 150, 32
BATCH_BYTES = 2e9  # of activations that a batch may leave for the backward pass
HELD_OUT = 256  # at most so many training examples judge whether healing helped, and no more than a fifth
STEPS_ASKED_TOGETHER = 8  # that the teacher answers at once on a GPU, which takes it hardly longer than one


def held_out(data: Split) -> tuple[Split, Split]:
    """Examples to train on, and others to judge by; the same ones throughout a job, whatever its seeds.

    With fewer than ten examples all do both.
    """
    number = min(HELD_OUT, len(data) // 5)
    if len(data) < 10:
        return data, data
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    return data.subset(order[number:].sort().values), data.subset(order[:number].sort().values)


def batch_for(examples: int, largest: int, bytes_each: float = 0.0) -> int:
    """A batch small enough that an epoch takes a hundred steps and more, and that fits in memory.

    The same wherever it trains, so that a recipe takes the same steps on a processor and on a GPU.
    """
    fitting = largest if bytes_each <= 0 else int(BATCH_BYTES / bytes_each)
    few = max(SMALLEST_BATCH, examples // FEW_STEPS)
    many = max(SMALL_BATCH, examples // MANY_STEPS)
    return min(largest, examples, few, many, max(SMALLEST_BATCH, fitting))


def asked_together(place: torch.device, batch_size: int, bytes_each: float) -> int:
    """How many examples the teacher answers at once: more than a step shows on a GPU, as far as they fit as a batch."""
    if place.type == "cpu":
        return batch_size
    fitting = BATCH_BYTES / bytes_each if bytes_each > 0 else math.inf
    return int(max(batch_size, min(STEPS_ASKED_TOGETHER * batch_size, fitting)))


def training_bytes(model: nn.Module, example: Inputs) -> float:
    """Bytes of what one example leaves behind for the backward pass: the output of every operator, at most.

    Zero where the network cannot be counted.
    """
    try:
        return float(profile(model, example).bytes_written)
    except NetworkError:
        return 0.0
