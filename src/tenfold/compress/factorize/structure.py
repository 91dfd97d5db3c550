"""The layers that replace a factorised one: plain convolutions and linear layers in a row, their cost and their weights.

A linear layer becomes reduce (I → r) and expand (r → O). A convolution of kernel size 1 likewise, the first of them with
the stride and padding. A larger one becomes reduce (1×1, I → s), core (k×k, s → r) and expand (1×1, r → O); where s = I
or r = O that outer layer is left out. The bias is on the last layer alone, so that zeros, reflections and copies at the
padded border pass through `reduce` as they would have been made before it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.compress.factorize.factors import svd_factors, tucker2

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d
Layer = nn.Linear | Convolution


@dataclass(frozen=True)
class Price:
    """Weights, biases apart, and multiply-adds for one example."""

    parameters: int
    macs: int

    def __add__(self, other: Price) -> Price:
        return Price(self.parameters + other.parameters, self.macs + other.macs)


def channels(layer: Layer) -> tuple[int, int]:
    """(input, output) channels or features."""
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels


def positions(layer: Layer) -> int:
    """Positions of the kernel: 1 for a linear layer."""
    return 1 if isinstance(layer, nn.Linear) else math.prod(layer.kernel_size)


def is_matrix(layer: Layer) -> bool:
    """Whether the weight is a matrix: a linear layer or a convolution of kernel size 1, which have one rank."""
    return positions(layer) == 1


def price(layer: Layer, places_in: int, places_out: int, ranks: tuple[int, ...] | None = None) -> Price:
    """What the layer costs as it is, or with these ranks: (r,) for a matrix, (s, r) (input, output) for a kernel.

    `places_in` and `places_out` are the positions of its input and output for one example.
    """
    into, out, kernel = *channels(layer), positions(layer)
    if ranks is None:
        return Price(into * out * kernel, into * out * kernel * places_out)
    if is_matrix(layer):
        (rank,) = ranks
        return Price(rank * (into + out), rank * (into + out) * places_out)
    rank_in, rank_out = ranks
    core = rank_in * rank_out * kernel
    total = Price(core, core * places_out)
    if rank_in < into:
        total += Price(into * rank_in, into * rank_in * places_in)
    if rank_out < out:
        total += Price(rank_out * out, rank_out * out * places_out)
    return total


def in_a_row(layer: Layer, ranks: tuple[int, ...]) -> nn.Sequential:
    """The replacement's structure, with weights not yet set."""
    into, out = channels(layer)
    bias = layer.bias is not None
    where: dict[str, Any] = {"device": layer.weight.device, "dtype": layer.weight.dtype}
    row: OrderedDict[str, nn.Module] = OrderedDict()
    if isinstance(layer, nn.Linear):
        (rank,) = ranks
        row["reduce"] = nn.Linear(into, rank, bias=False, **where)
        row["expand"] = nn.Linear(rank, out, bias=bias, **where)
        return nn.Sequential(row)
    kind: type[Any] = type(layer)  # one of three classes of the same constructor
    geometry: dict[str, Any] = {
        "kernel_size": layer.kernel_size,
        "stride": layer.stride,
        "padding": layer.padding,
        "dilation": layer.dilation,
        "padding_mode": layer.padding_mode,
    }
    if is_matrix(layer):
        (rank,) = ranks
        row["reduce"] = kind(into, rank, bias=False, **geometry, **where)
        row["expand"] = kind(rank, out, 1, bias=bias, **where)
        return nn.Sequential(row)
    rank_in, rank_out = ranks
    if rank_in < into:
        row["reduce"] = kind(into, rank_in, 1, bias=False, **where)
    row["core"] = kind(rank_in, rank_out, bias=bias and rank_out == out, **geometry, **where)
    if rank_out < out:
        row["expand"] = kind(rank_out, out, 1, bias=bias, **where)
    return nn.Sequential(row)


@torch.no_grad()
def factorised(layer: Layer, ranks: tuple[int, ...]) -> nn.Sequential:
    """The replacement with the weights that come nearest to the layer's own."""
    row = in_a_row(layer, ranks)
    into, out = channels(layer)
    weight = layer.weight
    parts: dict[str, Tensor] = {}
    if is_matrix(layer):
        left, right = svd_factors(weight.flatten(1), ranks[0])
        parts = {"reduce": right, "expand": left}
    else:
        rank_in, rank_out = ranks
        u_out, core, u_in = tucker2(weight.flatten(2), rank_out, rank_in)
        # A factor that is not truncated is a rotation: fold it back into the core and leave its layer out.
        if rank_in == into:
            core = torch.einsum("rsk,is->rik", core, u_in)
        if rank_out == out:
            core = torch.einsum("rsk,or->osk", core, u_out)
        parts = {"reduce": u_in.T, "core": core, "expand": u_out}
    for name, part in row.named_children():
        weight = part.get_parameter("weight")
        weight.copy_(parts[name].reshape(weight.shape))
    if layer.bias is not None:
        row[-1].get_parameter("bias").copy_(layer.bias)
    row.requires_grad_(layer.weight.requires_grad)
    return row.train(layer.training)
