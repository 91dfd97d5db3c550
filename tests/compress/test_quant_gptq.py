"""GPTQ against a naive recursion, brute force and rounding to nearest; and the columns that layers multiply."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from tenfold.compress.quantize.gptq import descended, gptq, inverse_factor, pruned
from tenfold.compress.quantize.grid import Grid, PerChannel, PerGroup, ZeroPoint
from tenfold.compress.quantize.layer_inputs import matrix_of, weight_of
from tenfold.compress.quantize.layers import find_layers
from tenfold.compress.quantize.moments import Moments, moments
from tenfold.compress.quantize.observe import Observer
from tenfold.compress.quantize.ranges import fit_grid
from tenfold.compress.quantize.rounding import Gptq, codes_by_gptq, followed, importance
from tenfold.compress.quantize.simplify import capture_folded


def problem(
    seed: int, rows: int, width: int, examples: int, bits: int = 3, group: int = 0
) -> tuple[Tensor, Tensor, Grid]:
    """A weight, the second moments (1, K, K) of correlated inputs, and a grid."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator)
    x = mixing @ torch.randn(width, examples, generator=generator)
    matrix = torch.randn(rows, width, generator=generator)
    granularity = PerGroup(group) if group else PerChannel()
    grid = fit_grid(matrix, bits, granularity, ZeroPoint.INTEGER, Observer.MINMAX)
    return matrix, (x @ x.T).double()[None], grid


def output_error(change: Tensor, hessian: Tensor) -> float:
    """Σ over rows of δᵀ H δ: the squared error of the layer's output on the inputs of H. change (R, K)."""
    d_GRK = change.double().reshape(hessian.shape[0], -1, hessian.shape[1])
    return float(((d_GRK @ hessian.double()) * d_GRK).sum())


def naive_obs(matrix: Tensor, hessian: Tensor, grid: Grid, damping: float, by_activation: bool) -> Tensor:
    """The optimal brain surgeon one weight at a time, the inverse shrunk by elimination: codes (R, K)."""
    width = matrix.shape[1]
    scale, zero = (v.double().expand(matrix.shape) for v in grid.columns(width))
    damped = hessian + damping * hessian.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    left = (
        hessian.diagonal().argsort(descending=True, stable=True).tolist()
        if by_activation
        else list(range(width))
    )
    w, codes = matrix.double().clone(), torch.zeros(matrix.shape, dtype=torch.uint8)
    inverse = torch.linalg.inv(damped)
    for i in left:
        q = torch.round(w[:, i] / scale[:, i] + zero[:, i]).clamp(0, grid.top)
        error = w[:, i] - scale[:, i] * (q - zero[:, i])
        w -= error[:, None] / inverse[i, i] * inverse[i]
        inverse -= torch.outer(inverse[:, i], inverse[i]) / inverse[i, i]
        codes[:, i] = q.to(torch.uint8)
    return codes


@pytest.mark.parametrize("by_activation", [True, False])
@pytest.mark.parametrize(("width", "group"), [(12, 0), (150, 32), (40, 16)])
def test_equals_the_naive_recursion(width: int, group: int, by_activation: bool) -> None:
    matrix, hessian, grid = problem(width, 5, width, 4 * width, group=group)
    fast = gptq(matrix, hessian, grid, damping=0.01, by_activation=by_activation)
    assert torch.equal(fast, naive_obs(matrix, hessian[0], grid, 0.01, by_activation))


def half_pruned(zero_point: ZeroPoint, share: float = 0.5) -> tuple[Tensor, Tensor, Tensor, Grid]:
    """A problem of which a share of the weights is gone, and which."""
    matrix, hessian, _ = problem(3, 6, 24, 100, bits=4)
    gone = torch.rand(matrix.shape, generator=torch.Generator().manual_seed(0)) < share
    matrix = matrix.masked_fill(gone, 0.0)
    return gone, matrix, hessian, fit_grid(matrix, 4, PerChannel(), zero_point, Observer.MINMAX)


@pytest.mark.parametrize("zero_point", [ZeroPoint.INTEGER, ZeroPoint.SYMMETRIC])
def test_what_was_pruned_stays_at_zero(zero_point: ZeroPoint) -> None:
    gone, matrix, hessian, grid = half_pruned(zero_point)
    codes = gptq(matrix, hessian, grid)
    for found in (codes, descended(matrix, codes, hessian, grid)):
        assert bool((grid.dequantized(found)[gone] == 0).all())
        # A coordinate at its best leaves no other weight a better code, with all others as they are.
        h = hessian[0] + 0.01 * hessian[0].diagonal().mean() * torch.eye(24, dtype=torch.float64)
        change = (grid.dequantized(found) - matrix).double()
        scale = grid.columns(24)[0].double().expand(matrix.shape)
        left = -(change @ h) / h.diagonal() / scale  # steps from the code to the best real value
        inside = (found > 0) & (found < grid.top) & ~gone
        assert float(left[inside].abs().max()) <= 0.5 + 1e-6
    nearest = grid.dequantized(grid.quantized(matrix))
    found = grid.dequantized(codes)
    assert output_error(found - matrix, hessian) < output_error(nearest - matrix, hessian)


def test_zeros_by_chance_or_beside_the_grid_change_nothing() -> None:
    gone, matrix, _, grid = half_pruned(ZeroPoint.REAL)
    assert not pruned(matrix, grid).any()  # no code is zero
    gone, matrix, _, grid = half_pruned(ZeroPoint.INTEGER, share=0.05)
    assert 0 < int(gone.sum()) < 0.1 * gone.numel()
    assert not pruned(matrix, grid).any()
    gone, matrix, _, grid = half_pruned(ZeroPoint.INTEGER)
    assert torch.equal(pruned(matrix, grid), gone)


def test_groups_are_rounded_as_so_many_layers() -> None:
    parts = [problem(seed, 3, 9, 50) for seed in range(4)]
    matrix, hessian = torch.cat([p[0] for p in parts]), torch.cat([p[1] for p in parts])
    grid = Grid(3, torch.cat([p[2].scale for p in parts]), torch.cat([p[2].zero_point for p in parts]))
    expected = torch.cat([gptq(*part) for part in parts])
    assert torch.equal(gptq(matrix, hessian, grid), expected)


def test_never_beats_brute_force_and_beats_nearest_on_the_whole() -> None:
    totals = {"brute": 0.0, "descended": 0.0, "gptq": 0.0, "nearest": 0.0}
    for seed in range(60):
        matrix, hessian, grid = problem(seed, 1, 4, 12, bits=2)
        choices = torch.tensor(list(product(range(4), repeat=4)), dtype=torch.uint8)
        found = gptq(matrix, hessian, grid)
        codes = {
            "descended": descended(matrix, found, hessian, grid, damping=1e-9),
            "gptq": found,
            "nearest": grid.quantized(matrix),
        }
        errors = {
            name: output_error(grid.dequantized(each) - matrix, hessian) for name, each in codes.items()
        }
        errors["brute"] = min(output_error(grid.dequantized(c[None]) - matrix, hessian) for c in choices)
        assert all(errors["brute"] <= error * (1 + 1e-9) for error in errors.values())
        assert errors["descended"] <= errors["gptq"] * (1 + 1e-9)
        totals = {name: totals[name] + errors[name] for name in totals}
    # Greedy as it is, GPTQ leaves 0.79 of nearest's error here, and looking again 0.65; the best there is has 0.62.
    assert totals["brute"] < totals["descended"] < 0.7 * totals["nearest"]
    assert totals["descended"] < totals["gptq"] < totals["nearest"]


def test_singular_and_dead_inputs_are_rounded_to_nearest_where_nothing_is_known() -> None:
    matrix, hessian, grid = problem(0, 3, 8, 2)  # of rank 2
    hessian[:, 5], hessian[:, :, 5] = 0.0, 0.0
    codes = gptq(matrix, hessian, grid, damping=1e-12)
    assert torch.equal(codes[:, 5], grid.quantized(matrix)[:, 5])
    assert torch.equal(gptq(matrix, torch.zeros_like(hessian), grid), grid.quantized(matrix))
    factor = inverse_factor(hessian, 0.01)
    assert bool(torch.isfinite(factor).all())


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Conv2d(6, 8, 3, padding=1, bias=False), (4, 6, 7, 7)),
        (nn.Conv2d(6, 9, (3, 2), stride=(2, 1), dilation=(1, 2), groups=3, bias=False), (4, 6, 9, 9)),
        (nn.Conv2d(6, 6, 4, padding="same", groups=6, bias=False), (4, 6, 7, 7)),
        (nn.Conv1d(4, 6, 5, stride=2, padding=2, bias=False), (4, 4, 20)),
        (nn.Conv3d(2, 4, 2, bias=False), (4, 2, 4, 4, 4)),
        (nn.Linear(5, 7, bias=False), (4, 3, 5)),
    ],
    ids=str,
)
def test_second_moments_give_the_error_of_the_layers_output(layer: nn.Module, shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(shape, generator=generator)
    (found,) = find_layers(capture_folded(layer, x).graph)
    weight = layer.weight.detach()  # type: ignore[union-attr, operator]
    change = 0.1 * torch.randn(weight.shape, generator=generator)
    with torch.no_grad():
        before = layer(x)
        layer.weight += change  # type: ignore[operator]
        expected = float((layer(x) - before).double().square().sum())
    hessian = moments(found, "", weight, [(x[:3], x[:3]), (x[3:], x[3:])]).rounded
    assert output_error(matrix_of(change, found.axis), hessian) == pytest.approx(expected, rel=1e-4)
    assert torch.equal(weight_of(matrix_of(change, found.axis), tuple(change.shape), found.axis), change)


def two_networks(seed: int = 0, number: int = 200) -> tuple[Tensor, Tensor, Moments]:
    """Inputs (K, N) of a float layer and of the same layer behind rounded ones, and their moments."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(8, 8, generator=generator)
    exact = mixing @ torch.randn(8, number, generator=generator) + 2
    rounded = 0.8 * exact + 0.3 * torch.randn(8, number, generator=generator)
    (layer,) = find_layers(capture_folded(nn.Linear(8, 3), torch.zeros(2, 8)).graph)
    return exact, rounded, moments(layer, "fc", torch.zeros(3, 8), [(rounded.T, exact.T)])


def test_moments_tell_the_error_with_and_without_means() -> None:
    exact, rounded, of = two_networks()
    w, q = (torch.randn(3, 8, generator=torch.Generator().manual_seed(s)) for s in (1, 2))
    for about, x, y in (
        (of, exact, rounded),
        (of.centred(), exact - exact.mean(1, True), rounded - rounded.mean(1, True)),
    ):
        wanted = float((w @ x - q @ y).double().square().sum() - (w @ x).double().square().sum())
        assert about.error(w, q) == pytest.approx(wanted, rel=1e-3)


def test_the_weight_that_follows_is_the_least_squares_one() -> None:
    exact, rounded, of = two_networks()
    w = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    expected = torch.linalg.lstsq(rounded.T.double(), (w @ exact).T.double()).solution.T
    assert torch.allclose(followed(w, of, 1e-9).double(), expected, atol=1e-3)
    same = Moments(of.count, of.rounded, of.rounded, of.rounded_sum, of.rounded_sum)
    assert torch.allclose(followed(w, same, 0.1), w)


def test_the_importance_of_a_weight_is_what_gptq_pays_for_its_error() -> None:
    matrix, hessian, grid = problem(3, 4, 10, 40)
    factor = inverse_factor(hessian, 1e-9)[0]
    codes = gptq(matrix, hessian, grid, damping=1e-9, by_activation=False)
    change = grid.dequantized(codes).double() - matrix.double()
    paid = torch.linalg.solve_triangular(factor.T, change.T, upper=False).square().sum()  # Σ e², e = U⁻ᵀ δ
    assert float(paid) == pytest.approx(output_error(change, hessian), rel=1e-4)
    weights = importance(hessian, 1e-9, 4)
    assert torch.allclose(
        weights[0] / weights[0, 0], (factor[0, 0] / factor.diagonal()).square().float(), rtol=1e-4
    )
    assert torch.equal(weights[0], weights[3])


def test_what_helps_on_one_half_only_is_left_out() -> None:
    """Rounding by inputs that another half of the examples does not share is no better than nearest there."""
    totals = {"chosen": 0.0, "nearest": 0.0, "trusting": 0.0}
    for seed in range(20):
        torch.manual_seed(seed)
        matrix = torch.randn(6, 12)
        parts = [two_networks_of(12, 6, seed * 3 + part) for part in range(3)]  # fewer examples than inputs

        def fit(weights: Tensor, matrix: Tensor = matrix) -> Grid:
            return fit_grid(matrix, 3, PerChannel(), ZeroPoint.INTEGER, Observer.MSE, weights)

        grid, chosen = codes_by_gptq(matrix, parts[:2], fit, Gptq())
        trusting = gptq(matrix, (parts[0] + parts[1]).rounded, grid, damping=1e-6)
        for name, codes in (("chosen", chosen), ("trusting", trusting), ("nearest", grid.quantized(matrix))):
            change = grid.dequantized(codes) - matrix
            totals[name] += output_error(change, parts[2].rounded)
    assert totals["chosen"] < 1.1 * totals["nearest"]
    assert totals["chosen"] < 0.8 * totals["trusting"]


def test_zeros_stay_where_the_rest_follows_what_the_layer_had_seen() -> None:
    generator = torch.Generator().manual_seed(1)
    matrix = torch.randn(3, 8, generator=generator)
    matrix = matrix.masked_fill(torch.rand(3, 8, generator=generator) < 0.5, 0.0)
    halves = [two_networks(seed)[2] for seed in (0, 0)]  # alike, so that following holds on the other

    def fit(weights: Tensor) -> Grid:
        return fit_grid(matrix, 8, PerChannel(), ZeroPoint.INTEGER, Observer.MSE, weights)

    grid, codes = codes_by_gptq(matrix, halves, fit, Gptq())
    values = grid.dequantized(codes)
    assert bool((values[matrix == 0] == 0).all())
    assert float((values - matrix).abs().max()) > float(grid.scale.max())  # it did follow


def two_networks_of(width: int, number: int, seed: int) -> Moments:
    x = torch.randn(width, number, generator=torch.Generator().manual_seed(seed)).double()
    hessian, sums = (x @ x.T)[None], x.sum(1)[None]
    return Moments(number, hessian, hessian, sums, sums)
