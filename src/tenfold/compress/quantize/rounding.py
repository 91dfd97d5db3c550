"""Rounding the weights of a network, layer by layer, each on the inputs that the rounded layers before it make."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from tenfold.compress.quantize.bias import channel_means
from tenfold.compress.quantize.capture import attribute
from tenfold.compress.quantize.gptq import gptq, output_error
from tenfold.compress.quantize.grid import Grid
from tenfold.compress.quantize.layer_inputs import matrix_of, second_moments
from tenfold.compress.quantize.layers import Layer
from tenfold.compress.quantize.weight_insert import UNPACK, store
from tenfold.errors import NetworkError

DAMPINGS = (0.01, 0.1, 1.0, 10.0)


@dataclass(frozen=True)
class Nearest:
    """Each weight to the nearest point of its grid."""


@dataclass(frozen=True)
class Gptq:
    """Each weight so that those after it make up for its error (`tenfold.compress.quantize.gptq`).

    `damping` is a share of the mean of the Hessian's diagonal; None takes for each layer that of `DAMPINGS` whose
    codes, found on one half of the examples, err least on the other: a classifier of 1,280 inputs seen a hundred
    times has too little of a Hessian to be trusted. `by_activation` begins with the most active inputs.
    """

    damping: float | None = None
    by_activation: bool = True

    def __post_init__(self) -> None:
        if self.damping is not None and not 0 < self.damping <= 100:
            raise ValueError(f"damping must be above 0 and at most 100, or None, not {self.damping!r}")


@dataclass
class Target:
    """A layer to be rounded: its name, its float weight, its grid and where its packed form lies in the module."""

    layer: Layer
    name: str
    weight: Tensor
    grid: Grid
    path: str

    @property
    def matrix(self) -> Tensor:
        """The float weight as (R, K)."""
        return matrix_of(self.weight, self.layer.axis)


class RoundingWalk(fx.Interpreter):
    """One walk through a graph of packed weights that fills each as the walk comes to it.

    With `means` (of the float network's outputs, by layer) every layer's bias is corrected before its output is
    read: b ← b + E[y] − E[ŷ] for each channel (Nagel et al., 2019, arXiv:1906.04721, appendix D).
    """

    def __init__(
        self,
        module: fx.GraphModule,
        targets: list[Target],
        rounding: Nearest | Gptq,
        means: dict[str, Tensor] | None,
        before: Callable[[int, str], None],
    ) -> None:
        super().__init__(module)
        self.rounding, self.means, self.before = rounding, means, before
        self.by_unpacking = {target.layer.node.name: target for target in targets}
        self.done = 0

    def run_node(self, n: fx.Node) -> Any:
        if n.target is UNPACK:
            (reader,) = n.users
            self._round(self.by_unpacking[reader.name])
        value = super().run_node(n)
        target = self.by_unpacking.get(n.name)
        if target is None or self.means is None:
            return value
        return self._corrected(target, value)

    def _round(self, target: Target) -> None:
        self.before(self.done, target.name)
        self.done += 1
        if isinstance(self.rounding, Gptq):
            codes = self._by_gptq(self.rounding, target)
        else:
            codes = target.grid.quantized(target.matrix)
        store(self.module, target.path, target.grid, codes)  # type: ignore[arg-type]

    def _by_gptq(self, rounding: Gptq, target: Target) -> Tensor:
        matrix, grid, x = target.matrix, target.grid, self.env[target.layer.input]
        halves = [
            second_moments(target.layer, half, target.weight) for half in x.tensor_split(2) if len(half)
        ]
        if not all(bool(torch.isfinite(half).all()) for half in halves):
            raise NetworkError(f"{target.name}: its inputs are not finite on the calibration examples")
        damping = rounding.damping
        if damping is None:
            damping = best_damping(matrix, halves, grid, rounding.by_activation)
        return gptq(
            matrix, sum(halves[1:], halves[0]), grid, damping=damping, by_activation=rounding.by_activation
        )

    def _corrected(self, target: Target, value: Tensor) -> Tensor:
        assert self.means is not None
        owner = self.module.get_submodule(target.path)
        if not hasattr(owner, "bias"):
            return value
        dim = target.layer.channel_dim
        shift = self.means[target.name] - channel_means(value, dim)
        attribute(owner, "bias").add_(shift)
        dims = [1] * value.dim()
        dims[dim] = -1
        return value + shift.reshape(dims)


def best_damping(matrix: Tensor, halves: list[Tensor], grid: Grid, by_activation: bool) -> float:
    """The damping whose codes, from the first half's moments, err least on the second's; the middle one for want of it."""
    if len(halves) < 2:
        return DAMPINGS[len(DAMPINGS) // 2]

    def error(damping: float) -> float:
        codes = gptq(matrix, halves[0], grid, damping=damping, by_activation=by_activation)
        return output_error(grid.dequantized(codes) - matrix, halves[1])

    return min(DAMPINGS, key=error)
