"""GPTQ: weights rounded one input at a time, the error of each made up for by those still to come.

Frantar et al., 2022, "GPTQ" (arXiv:2210.17323), algorithm 1, after the optimal brain surgeon: rounding w_i with error
e = (w_i − q_i) / [H⁻¹]_ii changes the rest by −e · [H⁻¹]_i,: which the rows of the upper Cholesky factor of H⁻¹ hold
for every step at once. H = X Xᵀ over the inputs X of the layer. A grouped convolution is as many layers as it has
groups: every tensor here has a first dimension for them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tenfold.compress.quantize.grid import Grid
from tenfold.errors import NetworkError

PRUNED = 0.1  # of the weights at zero: fewer may be so by chance
BLOCK = 128  # inputs whose updates of later inputs are gathered into one matrix product


def gptq(
    matrix: Tensor, hessian: Tensor, grid: Grid, *, damping: float = 0.01, by_activation: bool = True
) -> Tensor:
    """The codes (R, K) of `matrix` (R, K), whose rows belong to `hessian` (G, K, K) in turn, R / G rows each.

    `damping` is added to the diagonal as a share of its mean, and more where H is still singular. With
    `by_activation` the inputs with the largest H_ii are rounded first. An input that was never active is rounded to
    nearest; what was `pruned` stays at zero. Computed in float64.
    """
    groups, width = hessian.shape[0], matrix.shape[1]
    w_GRK = matrix.detach().double().reshape(groups, -1, width).clone()
    scale, zero = (
        values.double().expand(matrix.shape).reshape(w_GRK.shape) for values in grid.columns(width)
    )
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    order = torch.arange(width, device=matrix.device).expand(groups, -1)
    if by_activation:
        order = diagonal.argsort(dim=1, descending=True, stable=True)
    along_rows = order[:, None, :].expand_as(w_GRK)
    w_GRK, scale, zero = (each.gather(2, along_rows) for each in (w_GRK, scale, zero))
    ordered = hessian.double().gather(1, order[:, :, None].expand_as(hessian))
    ordered = ordered.gather(2, order[:, None, :].expand_as(hessian))
    factor = inverse_factor(ordered, damping)
    stays = pruned(matrix, grid).reshape(w_GRK.shape).gather(2, along_rows)

    codes = torch.empty_like(w_GRK)
    for start in range(0, width, BLOCK):
        stop = min(start + BLOCK, width)
        errors = torch.empty_like(w_GRK[:, :, start:stop])
        for i in range(start, stop):
            q = torch.round(w_GRK[:, :, i] / scale[:, :, i] + zero[:, :, i]).clamp_(0, grid.top)
            q = torch.where(stays[:, :, i], zero[:, :, i], q)
            codes[:, :, i] = q
            error = (w_GRK[:, :, i] - scale[:, :, i] * (q - zero[:, :, i])) / factor[:, None, i, i]
            w_GRK[:, :, i:stop] -= error[:, :, None] * factor[:, None, i, i:stop]
            errors[:, :, i - start] = error
        w_GRK[:, :, stop:] -= errors @ factor[:, start:stop, stop:]
    found = torch.empty_like(codes).scatter_(2, along_rows, codes).reshape(matrix.shape).to(torch.uint8)
    return best_around_zeros(matrix, found, hessian, grid, damping) if bool(stays.any()) else found


def pruned(matrix: Tensor, grid: Grid) -> Tensor:
    """Which weights of `matrix` (R, K) pruning set to zero: (R, K). None where few are zero, as may be by chance.

    None either on a grid with a real zero point, on which nothing is exactly zero.
    """
    zeros = matrix == 0
    _, zero_point = grid.columns(matrix.shape[1])
    if float(zeros.float().mean()) < PRUNED or not bool((zero_point == zero_point.round()).all()):
        return torch.zeros_like(zeros)
    return zeros


def best_around_zeros(matrix: Tensor, codes: Tensor, hessian: Tensor, grid: Grid, damping: float) -> Tensor:
    """Each row's `codes` (R, K), or those of rounding to nearest, whichever errs less, and then descended.

    H⁻¹ knows nothing of weights that must stay at zero, each row its own: part of what others' errors ask of them is
    lost, more than GPTQ gains where many are.
    """
    groups, width = hessian.shape[0], matrix.shape[1]
    h_GKK = damped(hessian.double(), damping)
    nearest = grid.quantized(matrix).to(codes.dtype)

    def error(choice: Tensor) -> Tensor:
        change = (grid.dequantized(choice) - matrix).double().reshape(groups, -1, width)
        return ((change @ h_GKK) * change).sum(2).flatten()

    better = error(codes) < error(nearest)
    return descended(matrix, torch.where(better[:, None], codes, nearest), hessian, grid, damping=damping)


def descended(
    matrix: Tensor, codes: Tensor, hessian: Tensor, grid: Grid, *, damping: float = 0.01, rounds: int = 3
) -> Tensor:
    """`codes` (R, K) after each was set in turn to the best one for the others as they are, for up to so many rounds.

    Coordinate descent on (ŵ − w)ᵀ (H + δ) (ŵ − w): the error never grows. GPTQ looks at each weight once, before it
    knows what becomes of those after it; this looks again. What was `pruned` stays at zero.
    """
    groups, width = hessian.shape[0], matrix.shape[1]
    w_GRK, q_GRK = (each.double().reshape(groups, -1, width) for each in (matrix, codes))
    q_GRK = q_GRK.clone()
    scale, zero = (
        values.double().expand(matrix.shape).reshape(w_GRK.shape) for values in grid.columns(width)
    )
    stays = pruned(matrix, grid).reshape(q_GRK.shape)
    h_GKK = damped(hessian.double(), damping)
    slope = (scale * (q_GRK - zero) - w_GRK) @ h_GKK
    for _ in range(rounds):
        changed = False
        for start in range(0, width, BLOCK):
            stop = min(start + BLOCK, width)
            steps = torch.zeros_like(slope[:, :, start:stop])
            near = slope[:, :, start:stop].clone()
            for i in range(start, stop):
                away = near[:, :, i - start] / h_GKK[:, None, i, i]  # from the best real value
                best = torch.round(q_GRK[:, :, i] - away / scale[:, :, i]).clamp_(0, grid.top)
                best = torch.where(stays[:, :, i], q_GRK[:, :, i], best)
                step = scale[:, :, i] * (best - q_GRK[:, :, i])
                if bool(step.any()):
                    near += step[:, :, None] * h_GKK[:, None, i, start:stop]
                    q_GRK[:, :, i], steps[:, :, i - start] = best, step
            if bool(steps.any()):
                changed = True
                slope += steps @ h_GKK[:, start:stop]
        if not changed:
            break
    return q_GRK.reshape(codes.shape).to(torch.uint8)


def inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper U with Uᵀ U = (H + δ)⁻¹ for each H: (G, K, K). δ grows tenfold until H + δ can be factored."""
    if not bool(hessian.isfinite().all()):  # no δ would do
        raise NetworkError(
            "the inputs of a layer hold NaN or infinity: the examples or the weights before it do"
        )
    share = max(damping, 1e-12)
    while True:
        lower, failed = torch.linalg.cholesky_ex(damped(hessian, share))
        if not failed.any():
            upper, failed = torch.linalg.cholesky_ex(torch.cholesky_inverse(lower), upper=True)
            if not failed.any():
                return upper
        share *= 10


def damped(hessian: Tensor, share: float) -> Tensor:
    """H with `share` of the mean of its diagonal added to that (of 1 where H is zero): (G, K, K)."""
    diagonal = hessian.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True)
    mean = torch.where(mean > 0, mean, torch.ones_like(mean))
    return hessian + torch.diag_embed((share * mean).expand_as(diagonal))
