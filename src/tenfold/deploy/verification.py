"""Does the exported network answer as the PyTorch network does?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tenfold.compress.quantize import is_quantized
from tenfold.cost import Inputs, batch_size, call, map_inputs
from tenfold.errors import VerificationError

# Float kernels differ in the order of their sums (100 dB and more is usual). Integer kernels round once where
# the PyTorch form rounds after floating-point sums: a value in a hundred lands one step off, layer after layer.
FLOAT_SNR_DB = 80.0
INT8_SNR_DB = 20.0


@dataclass(frozen=True)
class Verification:
    """How two networks' outputs on the same inputs compare.

    `max_error` is the largest absolute difference, `snr_db` the ratio of signal to difference in energy, in dB;
    `agreement` the share of examples with the same largest output (None if outputs are not (N, C) with C ≥ 2).
    """

    max_error: float
    snr_db: float
    agreement: float | None
    ok: bool
    text: str

    def require(self) -> None:
        """Raise a `VerificationError` unless it is ok."""
        if not self.ok:
            raise VerificationError(self.text)


def verify(
    model: nn.Module,
    runner: Callable[[Inputs], Tensor],
    inputs: Inputs,
    original: nn.Module | None = None,
) -> Verification:
    """Compare `runner` with `model` in PyTorch on `inputs`, as one batch and on the first example alone.

    An INT8 artefact is judged against the PyTorch form of the same integers; how far both are from the float
    `original`, if it is given, is information, not a judgement: that belongs to the metric.
    """
    first = map_inputs(lambda t: t[:1], inputs)
    compared = [(reference(model, each), runner(each).detach()) for each in (inputs, first)]
    for expected, actual in compared:
        if expected.shape != actual.shape:
            text = f"the artefact returns shape {tuple(actual.shape)}, PyTorch {tuple(expected.shape)}"
            return Verification(math.inf, -math.inf, None, False, text)
    errors = [float((a.double() - e.double()).abs().max()) for e, a in compared]
    ratio = min(signal_to_noise_db(e, a) for e, a in compared)
    agreement = argmax_agreement(*compared[0])
    floor = INT8_SNR_DB if is_quantized(model) else FLOAT_SNR_DB
    max_error = math.inf if any(math.isnan(e) for e in errors) else max(errors)
    ok = ratio >= floor and math.isfinite(max_error)
    text = f"max error {max_error:.3g}, signal-to-noise {ratio:.1f} dB"
    if agreement is not None:
        text += f", same class on {agreement:.1%} of {batch_size(inputs)}"
    if not ok:
        text = f"the artefact does not answer as PyTorch does: {text}; at least {floor:.0f} dB is needed"
    if original is not None:
        against = reference(original, inputs)
        text += f"; against the original {signal_to_noise_db(against, compared[0][1]):.1f} dB"
        same = argmax_agreement(against, compared[0][1])
        text += f", same class on {same:.1%}" if same is not None else ""
    return Verification(max_error, ratio, agreement, ok, text)


def reference(model: nn.Module, inputs: Inputs) -> Tensor:
    """The output of `model` in PyTorch, in inference mode, in eval mode."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            return call(model, inputs)
    finally:
        model.train(training)


def signal_to_noise_db(expected: Tensor, actual: Tensor) -> float:
    """10 log₁₀(Σ y² / Σ (y − ŷ)²): infinite for equal tensors, −infinite if either is not finite."""
    signal = float(expected.double().square().sum())
    noise = float((expected.double() - actual.double()).square().sum())
    if not (math.isfinite(signal) and math.isfinite(noise)):
        return -math.inf
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal > 0 else -math.inf


def argmax_agreement(expected: Tensor, actual: Tensor) -> float | None:
    """The share of examples whose largest output is the same; None where outputs are not classes."""
    if expected.dim() != 2 or expected.shape[1] < 2 or expected.shape != actual.shape:
        return None
    return float((expected.argmax(dim=1) == actual.argmax(dim=1)).double().mean())
