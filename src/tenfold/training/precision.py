"""The arithmetic and the memory format that a network is trained in, and where it lies."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tenfold.cost import Inputs, map_inputs


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
            tensor = sent(tensor, device)
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


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device. What comes from the processor joins a GPU's queue, and its work is not waited for.

    A plain `.to` would wait, since the processor may write into the memory that is copied; pinned memory is a copy.
    """
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


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
