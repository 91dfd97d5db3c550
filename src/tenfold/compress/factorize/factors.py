"""Low-rank factors of weights: SVD of a matrix, plain or by its inputs; Tucker-2, CP and tensor train of a kernel.

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


def whitened_svd(weight_OD: Tensor, moment_DD: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """(left (O, r), right (r, D)) with the least E‖(W − left·right)·x‖² of rank r, where E[x·xᵀ] is `moment_DD`.

    With C its Cholesky factor, W·C is truncated and C taken back out: Eckart and Young in the metric of the inputs
    (Wang et al., 2024, "SVD-LLM", section 3.1). `moment_DD` must be positive definite.
    """
    factor = torch.linalg.cholesky(moment_DD.double())
    left, right = svd_factors(weight_OD.double() @ factor, rank)
    return left, torch.linalg.solve_triangular(factor, right, upper=False, left=False)


def damped(moment_DD: Tensor, share: float = 1e-3) -> Tensor:
    """The moment with a share of its mean diagonal added to the diagonal: inputs that are never there give no inverse."""
    size = len(moment_DD)
    level = float(moment_DD.diagonal().mean()) or 1.0
    return moment_DD.double() + share * level * torch.eye(size, dtype=torch.float64)


def cp(kernel_OIK: Tensor, rank: int, iterations: int = 60, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """(out (O, R), in (I, R), places (K, R)) with kernel ≈ Σ_r out_r ∘ in_r ∘ places_r: canonical polyadic.

    By alternating least squares (Carroll and Chang, 1970; Harshman, 1970): each factor in turn is the best answer for
    the other two, so the error never grows. Starts from the leading vectors of the unfoldings, filled up at random.
    The three lengths of a term are made equal at the end.
    """
    kernel = kernel_OIK.double()
    generator = torch.Generator().manual_seed(seed)
    factors = []
    for mode in range(3):
        size = kernel.shape[mode]
        start = torch.randn(size, rank, generator=generator, dtype=torch.float64) / size**0.5
        leading = min(size, rank)
        start[:, :leading] = _leading(unfold(kernel, mode), leading)
        factors.append(start)
    energy, before = float(kernel.square().sum()), float("inf")
    for _ in range(iterations):
        for mode in range(3):
            a, b = (factors[other] for other in range(3) if other != mode)
            pairs = torch.einsum("ar,br->abr", a, b).reshape(-1, rank)
            factors[mode] = torch.linalg.lstsq(pairs, unfold(kernel, mode).T, driver="gelsd").solution.T
        error = float((kernel - torch.einsum("or,ir,kr->oik", *factors)).square().sum())
        if before - error <= TOLERANCE * max(error, 1e-12 * energy):
            break
        before = error
    lengths = torch.stack([factor.norm(dim=0).clamp_min(1e-300) for factor in factors])
    even = lengths.log().mean(0).exp()
    out, into, places = (factor / length * even for factor, length in zip(factors, lengths, strict=True))
    return out, into, places


def tensor_train(tensor: Tensor, ranks: tuple[int, ...]) -> list[Tensor]:
    """Cores (r_{j−1}, n_j, r_j) whose product is near the tensor; r_0 = r_n = 1 (Oseledets, 2011, algorithm 1).

    One truncated SVD after the other, from the left. Its squared error is at most the sum of those of the unfoldings.
    """
    cores, left, rest = [], 1, tensor.double()
    for size, rank in zip(tensor.shape[:-1], ranks, strict=True):
        matrix = rest.reshape(left * size, -1)
        basis = _leading(matrix, rank)
        cores.append(basis.reshape(left, size, rank))
        left, rest = rank, basis.T @ matrix
    cores.append(rest.reshape(left, tensor.shape[-1], 1))
    return cores
