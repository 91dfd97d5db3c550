"""Tensors without data that stand for a network's weights and inputs: a shape, a type and a device."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode


class Fakes:
    """Data-free stand-ins on the CPU, one for each tensor however often it appears."""

    def __init__(self) -> None:
        # No fallback: an operator without a shape rule is an error, never a real run on zeros.
        self.mode = FakeTensorMode(
            allow_fallback_kernels=False, allow_non_fake_inputs=True, static_shapes=True
        )
        self._made: dict[int, tuple[Tensor, Tensor]] = {}  # the originals are held so that ids stay theirs
        self._real: dict[int, Tensor] = {}

    def of(self, tensor: Tensor) -> Tensor:
        """The stand-in of `tensor`; of a stand-in, itself."""
        if isinstance(tensor, FakeTensor):
            return tensor
        if id(tensor) not in self._made:
            fake = self._make(tensor)
            self._made[id(tensor)] = (tensor, fake)
            self._real[id(fake)] = tensor
        return self._made[id(tensor)][1]

    def original(self, fake: Tensor) -> Tensor | None:
        """The tensor with data that `fake` stands for, if it stands for one."""
        real = self._real.get(id(fake))
        return real if real is not None and not real.is_meta else None

    def _make(self, tensor: Tensor) -> Tensor:
        if (
            tensor.layout != torch.strided
            or tensor.is_quantized
            or type(tensor) not in (Tensor, nn.Parameter)
        ):
            return self.mode.from_tensor(tensor, static_shapes=True)
        with self.mode:
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="cpu")
        return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake
