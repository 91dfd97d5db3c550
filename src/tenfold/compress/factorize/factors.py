"""Low-rank factors of weights: the truncated SVD of a matrix and the Tucker-2 decomposition of a kernel.

Shapes: O output channels, I input channels, K kernel positions (the product of the kernel's size); r, s ranks.
All in float64: it costs seconds for a few thousand channels, and nothing is lost before weights are rounded.
"""

from __future__ import annotations

import torch
from torch import Tensor

ITERATIONS = 10
TOLERANCE = 1e-5  # relative growth of the core's energy below which HOOI has settled


def svd_factors(weight_OI: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(left (O, r), right (r, I)) with left·right the nearest matrix of rank r (Eckart and Young, 1936).

    The matrix projected on its leading singular vectors of the shorter side. The singular values are shared between both
    factors, so that neither is much larger than the other.
    """
    weight = weight_OI.double()
    if weight.shape[0] <= weight.shape[1]:
        left = _leading(weight, rank)
        right = left.T @ weight
        values = right.norm(dim=1)
    else:
        right = _leading(weight.T, rank).T
        left = weight @ right.T
        values = left.norm(dim=0)
    # Scale each pair of vectors to equal length; a pair of no weight stays as it is.
    balance = torch.where(values > 0, values, 1.0).sqrt()
    if weight.shape[0] <= weight.shape[1]:
        return left * balance, right / balance[:, None]
    return left / balance, right * balance[:, None]


def singular_values(matrix: Tensor) -> Tensor:
    """Singular values, largest first, in float64.

    From the Gram matrix of the shorter side, many times faster than an SVD of a long matrix: squares come out exact to
    1e-16 of the largest, which is all that a share of energy asks for.
    """
    matrix = matrix.double()
    gram = matrix @ matrix.T if matrix.shape[0] <= matrix.shape[1] else matrix.T @ matrix
    return torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)


def unfold(kernel: Tensor, mode: int) -> Tensor:
    """The matrix whose rows are the slices of a tensor along `mode`."""
    return kernel.movedim(mode, 0).flatten(1)


def tucker2(
    kernel_OIK: Tensor, rank_out: int, rank_in: int, iterations: int = ITERATIONS
) -> tuple[Tensor, Tensor, Tensor]:
    """(out (O, r), core (r, s, K), in (I, s)) with kernel ≈ core ×₀ out ×₁ in; both factors have orthonormal columns.

    Tucker-2 (Kim et al., 2016, "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
    Applications", section 3.1). Starts from the leading singular vectors of both unfoldings (HOSVD) and improves them in
    turn (HOOI; De Lathauwer, De Moor and Vandewalle, 2000, algorithm 4.2): each half step is the best answer for the
    other factor as it is, so the error never grows.
    """
    kernel = kernel_OIK.double()
    out = _leading(unfold(kernel, 0), rank_out)
    into = _leading(unfold(kernel, 1), rank_in)
    energy = _core(kernel, out, into).square().sum()
    for _ in range(iterations):
        out = _leading(unfold(torch.einsum("oik,is->osk", kernel, into), 0), rank_out)
        into = _leading(unfold(torch.einsum("oik,or->rik", kernel, out), 1), rank_in)
        previous, energy = energy, _core(kernel, out, into).square().sum()
        if energy - previous <= TOLERANCE * energy:
            break
    return out, _core(kernel, out, into), into


def _core(kernel: Tensor, out: Tensor, into: Tensor) -> Tensor:
    return torch.einsum("oik,or,is->rsk", kernel, out, into)


def _leading(matrix: Tensor, rank: int) -> Tensor:
    """The leading left singular vectors, from the Gram matrix, which is far smaller than a wide matrix."""
    vectors = torch.linalg.eigh(matrix @ matrix.T).eigenvectors  # eigenvalues ascend
    return vectors[:, matrix.shape[0] - rank :].flip(1)
