"""Which memory format and arithmetic trains fastest on this machine: found by timing, not by a list of processors.

A processor with bf16 instructions trains a small convolutional network two to three times faster in bf16 with
channels last; one without them is several times slower in bf16.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tenfold.cost import Inputs, batch_size, call, map_inputs
from tenfold.errors import NetworkError, backward_reported

TRIAL_EXAMPLES = 64
WORTH = 0.85  # bf16 must take at most this share of the time of float32, or it is not worth its rounding


@dataclass(frozen=True)
class Precision:
    """`channels_last` keeps images and kernels as NHWC in memory; `bf16` runs the forward pass under autocast.

    Weights, gradients and the optimiser's state stay float32 either way.
    """

    channels_last: bool = False
    bf16: bool = False

    def model(self, model: nn.Module) -> nn.Module:
        """Lay the weights out for this precision, in place."""
        return _lay_out(model, torch.channels_last) if self.channels_last else model

    def inputs(self, inputs: Inputs, device: torch.device) -> Inputs:
        """The inputs on the device, laid out for this precision."""

        def place(tensor: Tensor) -> Tensor:
            tensor = tensor.to(device)
            if self.channels_last and tensor.ndim == 4:
                return tensor.contiguous(memory_format=torch.channels_last)
            return tensor

        return map_inputs(place, inputs)

    @contextmanager
    def arithmetic(self, device: torch.device) -> Iterator[None]:
        """The context of a forward pass."""
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bf16):
            yield

    def __str__(self) -> str:
        return ("bf16" if self.bf16 else "fp32") + (", channels last" if self.channels_last else "")

    @classmethod
    def named(cls, name: str) -> Precision:
        """The inverse of `str`; `ValueError` for any other text."""
        for precision in (cls(layout, bf16) for bf16 in (False, True) for layout in (False, True)):
            if str(precision) == name:
                return precision
        raise ValueError(
            f"no precision {name!r}: it is fp32 or bf16, with or without ', channels last' behind it"
        )


def device_of(model: nn.Module) -> torch.device:
    """Where the network's weights are (the CPU if it has none)."""
    tensor = next(model.parameters(), next(model.buffers(), None))
    return torch.device("cpu") if tensor is None else tensor.device


def plain_layout(model: nn.Module) -> nn.Module:
    """Undo channels last, in place: files and exporters want contiguous tensors."""
    return _lay_out(model, torch.contiguous_format)


def _lay_out(model: nn.Module, memory_format: torch.memory_format) -> nn.Module:
    # By hand, since Module.to(memory_format=...) raises on weights of rank 5.
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.ndim == 4:
            tensor.data = tensor.data.contiguous(memory_format=memory_format)
    return model


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

    `inputs` is a batch of real inputs, of which at most 64 examples are used. A way that gives a value that is not
    finite is out. `train` times forward and backward; else the forward pass alone, without gradients. Past `deadline`
    (`time.monotonic()`) no further way is tried.
    """
    return precision_and_pace(model, inputs, train=train, deadline=deadline)[0]


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
    device = device_of(model)
    trial = precision.model(copy.deepcopy(model)).train(train)
    ready = precision.inputs(inputs, device)
    seconds = math.inf
    for attempt in range(4):
        started = time.perf_counter()
        try:
            with torch.set_grad_enabled(train), precision.arithmetic(device):
                mean = call(trial, ready).float().square().mean()
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
