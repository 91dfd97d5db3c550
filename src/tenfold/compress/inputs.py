"""The inputs of layers rounded to 8 bits, as `Quantize` rounds activations: what that costs, before it is done."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from tenfold.compress.layers import reading
from tenfold.compress.quantize import Quantize
from tenfold.compress.quantize.affine import Affine, affine_of_range
from tenfold.compress.quantize.observe import observed
from tenfold.compress.quantize.ops import dequantize, quantize
from tenfold.cost import call
from tenfold.data import Split


def input_affines(
    network: nn.Module, names: Mapping[nn.Module, str], examples: Split, batch: int
) -> dict[nn.Module, Affine]:
    """The quantiser of the input of each module of `names`, its range chosen as `Quantize` chooses it by default.

    A module that is called often gets one for all calls. One that is never called has none: an attention block of
    PyTorch reads the weight of its last layer itself. Raises `NetworkError` for inputs that are not finite.
    """

    def show(see: Callable[[nn.Module, Tensor], None]) -> None:
        def read(module: nn.Module, value: Tensor) -> None:
            if value.numel():  # an expert that no token was sent to
                see(module, value)

        with reading(names, read), torch.no_grad():
            for _, inputs, _ in examples.batches(batch):
                call(network, inputs)

    ranges = observed(show, lambda module: f"the input of {names[module]}", Quantize().observer)
    return {module: affine_of_range(low, high) for module, (low, high) in ranges.items()}


def calibration_examples(train: Split, seed: int) -> Split:
    """Those that `Quantize` reads by default under this seed."""
    return train.take(Quantize().examples, seed=seed)


def rounded_inputs(affines: Mapping[nn.Module, Affine]) -> AbstractContextManager[None]:
    """For a while each of these modules reads its input rounded to uint8 and back."""
    return reading(affines, lambda module, x: round_to(affines[module], x))


def round_to(affine: Affine, x: Tensor) -> Tensor:
    """x (…) rounded to uint8 and back, in its own type."""
    scale = torch.tensor(affine.scale, device=x.device)
    zero_point = torch.tensor(affine.zero_point, dtype=torch.uint8, device=x.device)
    return dequantize(quantize(x.float(), scale, zero_point), scale, zero_point).to(x.dtype)
