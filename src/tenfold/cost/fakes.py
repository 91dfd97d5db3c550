"""What runs in place of a network's tensors while it is counted: tensors without data, or the real ones."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from tenfold.errors import NetworkError


class Fakes:
    """Data-free stand-ins, one for each tensor however often it appears: a shape, a type and a device.

    Tensors on the meta device stand on `device`, so that the network takes the code paths that it takes there;
    all others stand on their own.
    """

    real = False

    def __init__(self, device: torch.device) -> None:
        # No fallback: an operator without a shape rule is an error, never a real run on zeros.
        self.mode = FakeTensorMode(
            allow_fallback_kernels=False, allow_non_fake_inputs=True, static_shapes=True
        )
        self._device = device
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

    def original(self, tensor: Tensor) -> Tensor | None:
        """The tensor with data behind a stand-in, if its values are known."""
        if not isinstance(tensor, FakeTensor):
            return None if tensor.is_meta else tensor
        real = self._real.get(id(tensor))
        return real if real is not None and not real.is_meta else None

    def _make(self, tensor: Tensor) -> Tensor:
        if (
            tensor.layout != torch.strided
            or tensor.is_quantized
            or type(tensor) not in (Tensor, nn.Parameter)
        ):
            return self.mode.from_tensor(tensor, static_shapes=True)
        device = self._device if tensor.is_meta else tensor.device
        with self.mode:
            fake = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=device)
        return nn.Parameter(fake, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else fake


class Reals:
    """The tensors themselves; of a buffer, which a forward pass may write into, a copy."""

    real = True

    def __init__(self) -> None:
        self.mode: AbstractContextManager[Any] = nullcontext()
        self._copies: dict[int, tuple[Tensor, Tensor]] = {}

    def of(self, tensor: Tensor) -> Tensor:
        """The tensor itself, which must have data."""
        if tensor.is_meta:
            raise NetworkError(
                "a network or input on the meta device has no data to run on: move it with "
                'model.to_empty(device="cpu"), or count without real=True'
            )
        return tensor

    def copy(self, tensor: Tensor) -> Tensor:
        """A copy of a buffer, the same one each time."""
        if id(tensor) not in self._copies:
            self._copies[id(tensor)] = (tensor, self.of(tensor).detach().clone())
        return self._copies[id(tensor)][1]

    def original(self, tensor: Tensor) -> Tensor:
        """The tensor itself: its values are known."""
        return tensor


Standins = Fakes | Reals
