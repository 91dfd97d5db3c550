"""A linear layer as a tensor train: its weight by a row of small cores, for x·Wᵀ without W ever being made.

Novikov, Podoprikhin, Osokin and Vetrov (2015), "Tensorizing Neural Networks", section 4. With O = o_1·…·o_d outputs,
I = i_1·…·i_d inputs and r_0 = r_d = 1, d cores G_k (r_{k−1}, o_k, i_k, r_k) give the weight

    W[(p_1 … p_d), (q_1 … q_d)] = Σ over all s_k of Π_k G_k[s_{k−1}, p_k, q_k, s_k].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from math import isqrt, prod

import torch
from torch import Tensor, nn

from tenfold.compress.factorize.factors import singular_values, tensor_train
from tenfold.compress.factorize.structure import Layer, Price, channels


class TrainLinear(nn.Module):
    """(…, I) -> (…, O) by one core after the other, each a product with a matrix (o_k·r_k, r_{k−1}·i_k).

    What comes between them only needs another shape: (N·o_1…o_{k−1}, r_{k−1}·i_k, i_{k+1}…i_d), of which the core takes
    the middle. So the first cores are convolutions of kernel size 1 and the last a linear layer, that whatever works on
    such layers (quantisation, sharing, the runtime) works on cores too.
    """

    def __init__(
        self,
        into: tuple[int, ...],
        out: tuple[int, ...],
        ranks: tuple[int, ...],
        *,
        bias: bool = True,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.into, self.out, self.ranks = into, out, (1, *ranks)
        self.first = nn.ModuleList(
            nn.Conv1d(r * i, o * s, 1, bias=False, device=device, dtype=dtype)
            for (r, s), o, i in zip(pairwise(self.ranks), out[:-1], into[:-1], strict=True)
        )
        self.last = nn.Linear(self.ranks[-1] * into[-1], out[-1], bias=False, device=device, dtype=dtype)
        self.bias = nn.Parameter(torch.zeros(prod(out), device=device, dtype=dtype)) if bias else None

    def forward(self, input: Tensor) -> Tensor:  # named as in the linear layer whose place it takes
        x, rest = input, prod(self.into)
        for core, rank, side in zip(self.first, self.ranks[:-1], self.into[:-1], strict=True):
            rest //= side
            x = core(x.reshape(-1, rank * side, rest))
        y: Tensor = self.last(x.reshape(-1, self.last.in_features))
        y = y.reshape(*input.shape[:-1], prod(self.out))
        return y if self.bias is None else y + self.bias

    def extra_repr(self) -> str:
        return f"{'·'.join(map(str, self.into))} -> {'·'.join(map(str, self.out))}"


@dataclass(frozen=True)
class TrainMatrix:
    """The form of a linear layer as a train of `cores`; its ranks are r_1 … r_{d−1}."""

    cores: int

    def spectra(self, layer: Layer, moment: Tensor | None) -> tuple[tuple[Tensor, int], ...]:
        """Those of the unfoldings of the tensor whose k-th side is (o_k, i_k)."""
        tensor = self._tensor(layer)
        found, rows = [], 1
        for side in tensor.shape[:-1]:
            rows *= side
            matrix = tensor.reshape(rows, -1)
            found.append((singular_values(matrix), max(matrix.shape)))
        return tuple(found)

    def ranks(self, layer: Layer, chosen: tuple[int, ...]) -> tuple[int, ...]:
        return carried(self._sides(layer), chosen)

    def largest(self, layer: Layer) -> tuple[int, ...]:
        sides = self._sides(layer)
        return tuple(min(prod(sides[:k]), prod(sides[k:])) for k in range(1, len(sides)))

    def price(self, layer: Layer, places_in: int, places_out: int, ranks: tuple[int, ...]) -> Price:
        (into, out), total = self._split(layer), Price(0, 0)
        for k, (r, s) in enumerate(pairwise((1, *ranks, 1))):
            weights = r * into[k] * out[k] * s
            total += Price(weights, weights * prod(out[:k]) * prod(into[k + 1 :]) * places_out)
        return total

    def row(self, layer: Layer, ranks: tuple[int, ...]) -> TrainLinear:
        (into, out), weight = self._split(layer), layer.weight
        bias = layer.bias is not None
        return TrainLinear(into, out, ranks, bias=bias, device=weight.device, dtype=weight.dtype)

    @torch.no_grad()
    def factorised(self, layer: Layer, ranks: tuple[int, ...], moment: Tensor | None) -> nn.Module:
        made, (into, out) = self.row(layer, ranks), self._split(layer)
        cores = even(tensor_train(self._tensor(layer), ranks))
        for part, core, o, i in zip((*made.first, made.last), cores, out, into, strict=True):
            weight = part.get_parameter("weight")
            values = core.reshape(core.shape[0], o, i, core.shape[2]).permute(1, 3, 0, 2)  # (o, s, r, i)
            weight.copy_(values.reshape(weight.shape))
        if made.bias is not None and layer.bias is not None:
            made.bias.copy_(layer.bias)
        return made.requires_grad_(layer.weight.requires_grad).train(layer.training)

    def _split(self, layer: Layer) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """((i_1 …), (o_1 …)). Outputs ascend and inputs descend: then the sides o_k·i_k are nearly equal, and the first
        cores, which work on most of the input, make little of it."""
        into, out = channels(layer)
        return balanced(into, self.cores)[::-1], balanced(out, self.cores)

    def _sides(self, layer: Layer) -> tuple[int, ...]:
        return tuple(o * i for i, o in zip(*self._split(layer), strict=True))

    def _tensor(self, layer: Layer) -> Tensor:
        """(o_1·i_1, …, o_d·i_d)"""
        into, out = self._split(layer)
        order = [axis for k in range(self.cores) for axis in (k, self.cores + k)]
        return layer.weight.detach().reshape(*out, *into).permute(order).reshape(self._sides(layer))


@cache
def balanced(number: int, parts: int) -> tuple[int, ...]:
    """`parts` factors of `number` in ascending order, as equal as they can be: of the least sum."""
    if parts == 1:
        return (number,)
    options = ((d, *balanced(number // d, parts - 1)) for d in range(1, isqrt(number) + 1) if number % d == 0)
    return tuple(sorted(min(options, key=sum)))


def carried(sides: tuple[int, ...], ranks: tuple[int, ...]) -> tuple[int, ...]:
    """The ranks of a train, none larger than what the rank before it times its side can carry."""
    found, left = [], 1
    for side, rank in zip(sides, ranks, strict=False):
        left = min(rank, left * side)
        found.append(left)
    return tuple(found)


def even(cores: list[Tensor]) -> list[Tensor]:
    """The same train with cores of equal norm, so that none learns faster than the others; all zero, as it is."""
    norms = torch.stack([core.norm() for core in cores])
    if not bool((norms > 0).all()):
        return cores
    mean = norms.log().mean().exp()
    return [core * (mean / norm) for core, norm in zip(cores, norms, strict=True)]
