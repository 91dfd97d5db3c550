"""Which memory format and arithmetic trains fastest on this machine: found by timing, not by a list of processors.

A processor with bf16 instructions trains a small convolutional network two to three times faster in bf16 with
channels last; one without them is several times slower in bf16.
"""

from __future__ import annotations

import copy
import math
import time

import torch
from torch import Tensor, nn

from tenfold.cost import Inputs, batch_size, map_inputs
from tenfold.errors import NetworkError, backward_reported
from tenfold.training.graphs import graphed
from tenfold.training.precision import Precision, device_of

TRIAL_EXAMPLES = 64
WORTH = 0.85  # bf16 must take at most this share of the time of float32, or it is not worth its rounding


def possible_precisions(model: nn.Module, inputs: Inputs) -> list[Precision]:
    """The ways that fit this network and these inputs, the plainest first."""
    tensors = [*model.parameters(), *model.buffers()]
    floats = {t.dtype for t in tensors if t.is_floating_point()}
    images = isinstance(inputs, Tensor) and inputs.ndim == 4
    layouts = [False, True] if images and any(t.ndim == 4 for t in tensors) else [False]
    arithmetics = [False, True] if floats == {torch.float32} else [False]
    return [Precision(layout, bf16) for bf16 in arithmetics for layout in layouts]


def fastest_precision(
    model: nn.Module, inputs: Inputs, *, train: bool = True, deadline: float = math.inf
) -> Precision:
    """Time one step of each possible way on a copy of the network and take the fastest.

    `inputs` is a batch of real inputs, of which a processor is given at most 64 examples, a GPU all: there the way that
    is fastest for a few is another than for many. A way that gives a value that is not finite is out. `train` times forward and backward; else the forward pass alone, without gradients. Past `deadline`
    (`time.monotonic()`) no further way is tried.
    """
    examples = TRIAL_EXAMPLES if device_of(model).type == "cpu" else batch_size(inputs)
    return precision_and_pace(model, inputs, train=train, examples=examples, deadline=deadline)[0]


def precision_and_pace(
    model: nn.Module,
    inputs: Inputs,
    *,
    train: bool = True,
    examples: int = TRIAL_EXAMPLES,
    deadline: float = math.inf,
) -> tuple[Precision, float]:
    """As `fastest_precision`, from at most so many `examples`; and the seconds that its step takes for each."""
    inputs = map_inputs(lambda t: t[: max(2, min(examples, batch_size(inputs)))], inputs)
    choices = possible_precisions(model, inputs)
    best, best_seconds = choices[0], math.inf
    for precision in choices:
        if best_seconds < math.inf and time.monotonic() > deadline:
            break
        seconds = _step_seconds(model, inputs, precision, train=train, give_up=best_seconds)
        worth = WORTH if precision.bf16 and not best.bf16 else 1.0
        if seconds < worth * best_seconds:
            best, best_seconds = precision, seconds
    return best, best_seconds / batch_size(inputs)


def _step_seconds(
    model: nn.Module, inputs: Inputs, precision: Precision, *, train: bool, give_up: float
) -> float:
    """Seconds of the fastest of three steps after one to warm up; infinite if it fails or is hopelessly slow."""
    trial = precision.model(copy.deepcopy(model)).train(train)
    ready = precision.inputs(inputs, device_of(model))
    seconds = math.inf
    with graphed(trial, ready if train else None, precision) as forward:
        for attempt in range(4):
            started = time.perf_counter()
            try:
                with torch.set_grad_enabled(train):
                    mean = forward(ready).float().square().mean()
                if train and mean.requires_grad:
                    with backward_reported():
                        mean.backward()
            except (RuntimeError, NetworkError):  # an operator without this arithmetic
                if precision == Precision():
                    raise
                return math.inf
            if not math.isfinite(mean.item()) and precision.bf16:  # .item() also waits for a GPU
                return math.inf
            taken = time.perf_counter() - started
            if attempt == 0 and taken > 4 * give_up:
                return math.inf
            if attempt > 0:
                seconds = min(seconds, taken)
    return seconds
