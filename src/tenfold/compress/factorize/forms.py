"""The forms that a layer may be factorised into: which ranks it has, what it costs, and the plain layers it becomes.

Shapes: O output channels, I input channels, K kernel positions; H, W those of an image kernel.
"""

from __future__ import annotations

from collections import OrderedDict
from enum import Enum
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from tenfold.compress.factorize.factors import (
    cp,
    damped,
    singular_values,
    svd_factors,
    tensor_train,
    unfold,
    whitened_svd,
)
from tenfold.compress.factorize.structure import (
    Convolution,
    Layer,
    Price,
    channels,
    factorised,
    in_a_row,
    is_matrix,
    positions,
    price,
)
from tenfold.compress.factorize.trains import TrainMatrix, carried

Spectra = tuple[
    tuple[Tensor, int], ...
]  # for each rank to choose: singular values, and the matrix's longer side


class Kernels(Enum):
    """What a convolution larger than 1×1 becomes; a 1×1 convolution becomes two by SVD."""

    TUCKER = "tucker"  # 1×1, K, 1×1
    SVD = "svd"  # K, 1×1
    CP = "cp"  # 1×1, depthwise K, 1×1
    TENSOR_TRAIN = "tensor_train"  # 1×1, H×1, 1×W, 1×1


class Linears(Enum):
    """What a linear layer becomes. CP of a matrix, which has two sides, is its SVD.

    A train takes the inputs and the outputs for products of two or three factors and couples one factor of each in a
    core. It has far fewer weights of a rank than an SVD, and other matrices that it takes for simple: those that are
    nearly sums of few Kronecker products.
    """

    SVD = "svd"  # two linear layers
    TENSOR_TRAIN = "tensor_train"  # two cores
    TENSOR_TRAIN_3 = "tensor_train_3"  # three


class Form(Protocol):
    """One way to factorise a layer. `moment` is E[x·xᵀ] of its inputs where the activations are to count, else None."""

    def spectra(self, layer: Layer, moment: Tensor | None) -> Spectra:
        """What each rank is chosen by."""
        ...

    def ranks(self, layer: Layer, chosen: tuple[int, ...]) -> tuple[int, ...]:
        """The ranks of the form, from those chosen by the spectra."""
        ...

    def largest(self, layer: Layer) -> tuple[int, ...]:
        """The ranks at which nothing is lost: none may be larger."""
        ...

    def price(self, layer: Layer, places_in: int, places_out: int, ranks: tuple[int, ...]) -> Price:
        """What it costs."""
        ...

    def row(self, layer: Layer, ranks: tuple[int, ...]) -> nn.Module:
        """The structure, with weights not yet set."""
        ...

    def factorised(self, layer: Layer, ranks: tuple[int, ...], moment: Tensor | None) -> nn.Module:
        """The structure with the weights that come nearest."""
        ...


def form_of(layer: Layer, kernels: Kernels, linears: Linears, aware: bool) -> Form:
    """The form for a layer: `aware` of activations, everything is one SVD, with a kernel in its first part."""
    if isinstance(layer, nn.Linear) and linears is not Linears.SVD:
        return TrainMatrix(2 if linears is Linears.TENSOR_TRAIN else 3)
    if kernels is Kernels.SVD or (aware and kernels is Kernels.TUCKER):
        return Matrix()
    if is_matrix(layer) or kernels is Kernels.TUCKER:
        return Plain()
    return Canonical() if kernels is Kernels.CP else Train()


def why_no_form(layer: Layer, kernels: Kernels) -> str | None:
    """Why this layer cannot take its form, or None."""
    if is_matrix(layer) or kernels in (Kernels.TUCKER, Kernels.SVD):
        return None
    if layer.padding_mode != "zeros" or isinstance(layer.padding, str):  # type: ignore[union-attr]
        return f"its padding goes with no {kernels.value} form"
    if kernels is Kernels.TENSOR_TRAIN and not isinstance(layer, nn.Conv2d):
        return "a tensor train is for convolutions of two dimensions"
    return None


class Plain:
    """SVD of a matrix, Tucker-2 of a kernel (`structure`)."""

    def spectra(self, layer: Layer, moment: Tensor | None) -> Spectra:
        weight = layer.weight.detach()
        return tuple(_spectrum(unfold(weight, mode)) for mode in ((0,) if is_matrix(layer) else (1, 0)))

    def ranks(self, layer: Layer, chosen: tuple[int, ...]) -> tuple[int, ...]:
        return chosen

    def largest(self, layer: Layer) -> tuple[int, ...]:
        into, out = channels(layer)
        return (min(into, out),) if is_matrix(layer) else (into, out)

    def price(self, layer: Layer, places_in: int, places_out: int, ranks: tuple[int, ...]) -> Price:
        return price(layer, places_in, places_out, ranks)

    def row(self, layer: Layer, ranks: tuple[int, ...]) -> nn.Sequential:
        return in_a_row(layer, ranks)

    def factorised(self, layer: Layer, ranks: tuple[int, ...], moment: Tensor | None) -> nn.Sequential:
        return factorised(layer, ranks)


class Matrix(Plain):
    """SVD of the weight as a matrix (O, I·K), where there is a moment in its metric; the kernel stays in the first layer.

    For a kernel the channel decomposition of Zhang et al. (2016), "Accelerating Very Deep Convolutional Networks",
    there by the outputs, here by the inputs' second moment.
    """

    def spectra(self, layer: Layer, moment: Tensor | None) -> Spectra:
        matrix = layer.weight.detach().flatten(1).double()
        if moment is not None:
            matrix = matrix @ torch.linalg.cholesky(damped(moment))
        return (_spectrum(matrix),)

    def ranks(self, layer: Layer, chosen: tuple[int, ...]) -> tuple[int, ...]:
        return chosen

    def largest(self, layer: Layer) -> tuple[int, ...]:
        into, out = channels(layer)
        return (min(into * positions(layer), out),)

    def price(self, layer: Layer, places_in: int, places_out: int, ranks: tuple[int, ...]) -> Price:
        return price(layer, places_in, places_out, self._all(layer, ranks))

    def row(self, layer: Layer, ranks: tuple[int, ...]) -> nn.Sequential:
        return in_a_row(layer, self._all(layer, ranks))

    @torch.no_grad()
    def factorised(self, layer: Layer, ranks: tuple[int, ...], moment: Tensor | None) -> nn.Sequential:
        row, matrix = self.row(layer, ranks), layer.weight.flatten(1)
        left, right = (
            svd_factors(matrix, ranks[0])
            if moment is None
            else whitened_svd(matrix, damped(moment), ranks[0])
        )
        # At full rank on the output side the second layer is left out.
        for part, values in zip(row, (right, left) if len(row) == 2 else (left @ right,), strict=True):
            _fill(part, values)
        return _finished(row, layer)

    def _all(self, layer: Layer, ranks: tuple[int, ...]) -> tuple[int, ...]:
        return ranks if is_matrix(layer) else (channels(layer)[0], ranks[0])


class Canonical:
    """CP of a kernel (Lebedev et al., 2015, "Speeding-up … Using Fine-tuned CP-Decomposition"), its places in one."""

    def spectra(self, layer: Layer, moment: Tensor | None) -> Spectra:
        weight = layer.weight.detach()
        return _spectrum(unfold(weight, 1)), _spectrum(unfold(weight, 0))

    def ranks(self, layer: Layer, chosen: tuple[int, ...]) -> tuple[int, ...]:
        return (max(chosen),)  # as many terms as the wider side needs; a kernel may need more

    def largest(self, layer: Layer) -> tuple[int, ...]:
        into, out = channels(layer)
        return (min(into * out, into * positions(layer), out * positions(layer)),)

    def price(self, layer: Layer, places_in: int, places_out: int, ranks: tuple[int, ...]) -> Price:
        (into, out), kernel, (rank,) = channels(layer), positions(layer), ranks
        macs = into * rank * places_in + rank * kernel * places_out + rank * out * places_out
        return Price(rank * (into + kernel + out), macs)

    def row(self, layer: Layer, ranks: tuple[int, ...]) -> nn.Sequential:
        assert not isinstance(layer, nn.Linear)
        into, out = channels(layer)
        (rank,), kind, where = ranks, type(layer), _where(layer)
        row: OrderedDict[str, nn.Module] = OrderedDict()
        row["reduce"] = kind(into, rank, 1, bias=False, **where)
        row["core"] = kind(rank, rank, groups=rank, bias=False, **_geometry(layer), **where)
        row["expand"] = kind(rank, out, 1, bias=layer.bias is not None, **where)
        return nn.Sequential(row)

    @torch.no_grad()
    def factorised(self, layer: Layer, ranks: tuple[int, ...], moment: Tensor | None) -> nn.Sequential:
        row = self.row(layer, ranks)
        out, into, places = cp(layer.weight.flatten(2), ranks[0])
        for part, values in zip(row, (into.T, places.T, out), strict=True):
            _fill(part, values)
        return _finished(row, layer)


class Train:
    """A tensor train of an image kernel in the order I, H, W, O: a reduction, a column, a row, an expansion."""

    def spectra(self, layer: Layer, moment: Tensor | None) -> Spectra:
        weight_IHWO = layer.weight.detach().permute(1, 2, 3, 0)
        into, high, wide, _ = weight_IHWO.shape
        return tuple(_spectrum(weight_IHWO.reshape(n, -1)) for n in (into, into * high, into * high * wide))

    def ranks(self, layer: Layer, chosen: tuple[int, ...]) -> tuple[int, ...]:
        out, into, high, wide = layer.weight.shape
        return carried((into, high, wide, out), chosen)

    def largest(self, layer: Layer) -> tuple[int, ...]:
        out, into, high, wide = layer.weight.shape
        sides = ((into, high * wide * out), (into * high, wide * out), (into * high * wide, out))
        return tuple(min(a, b) for a, b in sides)

    def price(self, layer: Layer, places_in: int, places_out: int, ranks: tuple[int, ...]) -> Price:
        out, into, high, wide = layer.weight.shape
        first, second, third = ranks
        column, row = first * second * high, second * third * wide
        # The column strides one way and keeps the other: its places lie between, by the geometric mean.
        between = round((places_in * places_out) ** 0.5)
        macs = into * first * places_in + column * between + (row + third * out) * places_out
        return Price(into * first + column + row + third * out, macs)

    def row(self, layer: Layer, ranks: tuple[int, ...]) -> nn.Sequential:
        assert isinstance(layer, nn.Conv2d)
        first, second, third = ranks
        (kh, kw), (sh, sw), (dh, dw), where = layer.kernel_size, layer.stride, layer.dilation, _where(layer)
        ph, pw = (int(side) for side in layer.padding)
        row: OrderedDict[str, nn.Module] = OrderedDict()
        row["reduce"] = nn.Conv2d(layer.in_channels, first, 1, bias=False, **where)
        row["column"] = nn.Conv2d(first, second, (kh, 1), (sh, 1), (ph, 0), (dh, 1), bias=False, **where)
        row["row"] = nn.Conv2d(second, third, (1, kw), (1, sw), (0, pw), (1, dw), bias=False, **where)
        row["expand"] = nn.Conv2d(third, layer.out_channels, 1, bias=layer.bias is not None, **where)
        return nn.Sequential(row)

    @torch.no_grad()
    def factorised(self, layer: Layer, ranks: tuple[int, ...], moment: Tensor | None) -> nn.Sequential:
        row = self.row(layer, ranks)
        cores = tensor_train(layer.weight.permute(1, 2, 3, 0), ranks)
        for part, core in zip(row, cores, strict=True):  # core (r, n, s) -> weight (s, r, …)
            values = (
                core.permute(2, 0, 1) if part in (row.column, row.row) else core.reshape(-1, core.shape[2]).T
            )
            if part is row.expand:
                values = core[:, :, 0].T
            _fill(part, values)
        return _finished(row, layer)


def _spectrum(matrix: Tensor) -> tuple[Tensor, int]:
    matrix = matrix.flatten(1)
    return singular_values(matrix), max(matrix.shape)


def _where(layer: Layer) -> dict[str, Any]:
    return {"device": layer.weight.device, "dtype": layer.weight.dtype}


def _geometry(layer: Convolution) -> dict[str, Any]:
    names = ("kernel_size", "stride", "padding", "dilation")
    return {name: getattr(layer, name) for name in names}


def _fill(part: nn.Module, values: Tensor) -> None:
    weight = part.get_parameter("weight")
    weight.copy_(values.reshape(weight.shape))


def _finished(row: nn.Sequential, layer: Layer) -> nn.Sequential:
    """With the layer's bias on its last part, and in its mode."""
    if layer.bias is not None:
        row[-1].get_parameter("bias").copy_(layer.bias)
    row.requires_grad_(layer.weight.requires_grad)
    return row.train(layer.training)
