"""What calibration says of a layer's inputs: their second moments, and how those of the rounded network go with the float ones."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.compress.quantize.layer_inputs import columns_of
from tenfold.compress.quantize.layers import Layer
from tenfold.errors import NetworkError


@dataclass(frozen=True)
class Moments:
    """Over `count` positions of the inputs x̂ of a rounded and x of the float network, K of a group: all float64.

    `rounded` is Σ x̂ x̂ᵀ and `crossed` Σ x x̂ᵀ, both (G, K, K); `rounded_sum` and `exact_sum` are Σ x̂ and Σ x (G, K).
    """

    count: int
    rounded: Tensor
    crossed: Tensor
    rounded_sum: Tensor
    exact_sum: Tensor

    def __add__(self, other: Moments) -> Moments:
        return Moments(
            self.count + other.count,
            self.rounded + other.rounded,
            self.crossed + other.crossed,
            self.rounded_sum + other.rounded_sum,
            self.exact_sum + other.exact_sum,
        )

    def centred(self) -> Moments:
        """The same about the means: what is left to a weight whose layer's bias makes up for the means."""
        mean = self.rounded_sum / max(self.count, 1)
        return Moments(
            self.count,
            self.rounded - self.rounded_sum[:, :, None] * mean[:, None],
            self.crossed - self.exact_sum[:, :, None] * mean[:, None],
            torch.zeros_like(self.rounded_sum),
            torch.zeros_like(self.exact_sum),
        )

    def error(self, matrix: Tensor, rounded: Tensor) -> float:
        """Σ ‖W x − Ŵ x̂‖² but for a term that Ŵ has no part in. Both weights (R, K)."""
        w, q = (
            each.double().reshape(self.rounded.shape[0], -1, self.rounded.shape[1])
            for each in (matrix, rounded)
        )
        return float(((q @ self.rounded) * q).sum() - 2 * ((w @ self.crossed) * q).sum())


def moments(layer: Layer, name: str, weight: Tensor, pairs: Iterable[tuple[Tensor, Tensor]]) -> Moments:
    """The moments of the inputs (rounded, float) of a layer, part by part. `NetworkError` where they are not finite."""
    total: Moments | None = None
    for rounded, exact in pairs:
        for a_GKN, b_GKN in zip(
            columns_of(layer, rounded, weight), columns_of(layer, exact, weight), strict=True
        ):
            # A part is summed in float32, parts in float64.
            part = Moments(
                a_GKN.shape[2],
                (a_GKN @ a_GKN.transpose(1, 2)).double(),
                (b_GKN @ a_GKN.transpose(1, 2)).double(),
                a_GKN.sum(2).double(),
                b_GKN.sum(2).double(),
            )
            total = part if total is None else total + part
    assert total is not None
    if not bool(torch.isfinite(total.rounded).all() & torch.isfinite(total.crossed).all()):
        raise NetworkError(f"{name}: its inputs are not finite on the calibration examples")
    return total
