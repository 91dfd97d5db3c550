"""What each technique does to a layer without healing: the changes that `blame` tries, layer by layer.

Shapes: a weight is (O, I, K…), O outputs, I inputs (of a group), K kernel positions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.compress.factorize.factors import svd_factors, tucker2
from tenfold.compress.prune.masks import keep_largest, keep_two_of_four
from tenfold.compress.share.kmeans import kmeans


@dataclass(frozen=True)
class Change:
    """A change by name: `technique` is what it stands for, `apply` gives the changed weight, or None to leave it.

    With `inputs` what the layer reads is rounded as well, as `compress.inputs` does it.
    """

    name: str
    technique: str
    text: str
    apply: Callable[[Tensor], Tensor | None]
    inputs: bool = False


def rounded_to(bits: int) -> Callable[[Tensor], Tensor]:
    """Round to nearest, symmetric, with a scale for each output channel: the baseline of every quantiser."""

    def apply(weight: Tensor) -> Tensor:
        most = 2 ** (bits - 1) - 1
        largest = weight.flatten(1).abs().amax(1).clamp_min(torch.finfo(weight.dtype).tiny)
        scale = (largest / most).reshape(-1, *[1] * (weight.dim() - 1))
        return (weight / scale).round().clamp(-most, most) * scale

    return apply


def inputs_cut(ratio: float) -> Callable[[Tensor], Tensor | None]:
    """The input channels of least norm at zero, as after structured pruning by magnitude of what feeds the layer.

    Inputs, since those of the last layer can go while its outputs cannot. None where there is only one.
    """

    def apply(weight: Tensor) -> Tensor | None:
        if weight.shape[1] < 2:
            return None
        kept = keep_largest(weight.transpose(0, 1).flatten(1).norm(dim=1), ratio)
        return weight * kept.reshape(1, -1, *[1] * (weight.dim() - 2))

    return apply


def weights_cut(ratio: float) -> Callable[[Tensor], Tensor]:
    """The weights of least magnitude at zero."""
    return lambda weight: weight * keep_largest(weight.abs(), ratio)


def two_of_four(weight: Tensor) -> Tensor | None:
    """Of every four inputs the two of largest magnitude; None where inputs do not come in fours."""
    return weight * keep_two_of_four(weight.abs()) if weight.shape[1] % 4 == 0 else None


def low_rank(share: float) -> Callable[[Tensor], Tensor | None]:
    """The nearest product of thinner layers with this share of the weights; None where that is no layer at all."""

    def apply(weight: Tensor) -> Tensor | None:
        out, into, kernel = (
            weight.shape[0],
            weight.shape[1],
            weight.flatten(2).shape[2] if weight.dim() > 2 else 1,
        )
        budget = share * weight.numel()
        if kernel == 1:
            rank = int(budget / (out + into))
            if not 1 <= rank < min(out, into):
                return None
            left, right = svd_factors(weight.flatten(1), rank)
            return (left @ right).to(weight.dtype).reshape(weight.shape)
        if into == 1:
            return None
        # Ranks in proportion to the channels: a·b·K·x² + (a² + b²)·x = budget, with x the share of each.
        a, b = float(out * into * kernel), float(out * out + into * into)
        part = (-b + (b * b + 4 * a * budget) ** 0.5) / (2 * a)
        ranks = max(1, round(part * out)), max(1, round(part * into))
        u, core, v = tucker2(weight.flatten(2), *ranks)
        near = torch.einsum("or,rsk,is->oik", u, core, v)
        return near.to(weight.dtype).reshape(weight.shape)

    return apply


def values_shared(number: int) -> Callable[[Tensor], Tensor | None]:
    """Every weight the nearest of so many values, the best for the layer; None where it has no more weights."""

    def apply(weight: Tensor) -> Tensor | None:
        if weight.numel() <= number:
            return None
        centroids, codes = kmeans(weight.reshape(-1, 1), number)
        return centroids[codes, 0].to(weight.dtype).reshape(weight.shape)

    return apply


CHANGES: dict[str, Change] = {
    change.name: change
    for change in (
        Change("int8", "quantize", "weights rounded to 8 bits a channel", rounded_to(8)),
        Change("int4", "quantize", "weights rounded to 4 bits a channel", rounded_to(4)),
        Change("prune", "prune", "half of the input channels cut", inputs_cut(0.5)),
        Change("sparse", "sparsify", "half of the weights cut", weights_cut(0.5)),
        Change("2:4", "sparsify", "two of every four inputs cut", two_of_four),
        Change("low-rank", "factorize", "thinner layers of half the weights", low_rank(0.5)),
        Change("share", "share", "16 values a layer", values_shared(16)),
        # Last, so that a run that is short of time has the figures of the others first.
        Change("int8-activations", "quantize", "inputs rounded to 8 bits", lambda weight: None, inputs=True),
        Change("int8-full", "quantize", "weights and inputs rounded to 8 bits", rounded_to(8), inputs=True),
    )
}
