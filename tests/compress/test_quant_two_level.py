"""Grids of two levels of scales, and the weights that are packed by them."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.compress.quantize.codes import pack_codes
from tenfold.compress.quantize.grid import PerChannel, PerGroup, ZeroPoint
from tenfold.compress.quantize.observe import Observer
from tenfold.compress.quantize.ranges import fit_grid
from tenfold.compress.quantize.stored import StoredWeight
from tenfold.compress.quantize.two_level import LARGEST, equal_groups, largest_multiple, two_level


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(bits=st.integers(2, 6), limit=st.sampled_from([63, 127]), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_products_are_integers_within_the_limit(bits: int, limit: int, seed: int) -> None:
    matrix = drawn(5, 24, seed=seed) * torch.logspace(-2, 1, 5)[:, None]
    grid = fit_grid(matrix, bits, PerGroup(8), ZeroPoint.SYMMETRIC, Observer.MSE)
    least = torch.zeros(5)
    least[3] = 10.0  # a channel whose bias needs a large scale
    found = two_level(grid, matrix, limit, least)
    assert torch.equal(found.scale, found.channel * found.multiples)
    assert set(found.multiples.unique().tolist()) <= set(range(1, largest_multiple(bits, limit) + 1))
    integers = found.rounded(matrix) / found.channel
    assert torch.allclose(integers, integers.round(), atol=1e-4)
    assert float(integers.abs().max()) <= limit + 1e-3
    assert float(found.channel[3]) >= 10.0


def test_multiples_are_those_that_err_least() -> None:
    matrix, importance = drawn(3, 16), drawn(3, 16, seed=1).exp()
    grid = fit_grid(matrix, 4, PerGroup(8), ZeroPoint.SYMMETRIC, Observer.MSE)
    found = two_level(grid, matrix, 127, torch.zeros(3), importance)
    for row, group in itertools.product(range(3), range(2)):
        w, cost = (x[row, 8 * group : 8 * group + 8].double() for x in (matrix, importance))
        errors = {}
        for multiple in range(1, LARGEST + 1):
            step = float(found.channel[row]) * multiple
            errors[multiple] = float((cost * (w - step * (w / step).round().clamp(-8, 7)) ** 2).sum())
        assert errors[int(found.multiples[row, group])] == pytest.approx(min(errors.values()), rel=1e-4)
    # In one group of the whole there is nothing to multiply.
    whole = fit_grid(matrix, 4, PerChannel(), ZeroPoint.SYMMETRIC, Observer.MSE)
    alone = two_level(whole, matrix, 127, torch.zeros(3))
    assert torch.equal(alone.scale, whole.scale)
    with pytest.raises(ValueError, match="8 bits do not lie within"):
        two_level(
            fit_grid(matrix, 8, PerChannel(), ZeroPoint.SYMMETRIC, Observer.MSE), matrix, 127, torch.zeros(3)
        )


@pytest.mark.parametrize("bits", [2, 4, 6])
@pytest.mark.parametrize("gone", [0.0, 1e-20])
def test_groups_and_channels_of_zeros_cost_the_others_nothing(bits: int, gone: float) -> None:
    matrix = 0.02 * drawn(3, 64)
    grid = fit_grid(matrix, bits, PerGroup(32), ZeroPoint.SYMMETRIC, Observer.MSE)
    whole = two_level(grid, matrix, 127, torch.zeros(3))
    matrix[0, :32] = gone  # as of inputs that nothing reaches
    matrix[1] = gone
    grid = fit_grid(matrix, bits, PerGroup(32), ZeroPoint.SYMMETRIC, Observer.MSE)
    found = two_level(grid, matrix, 127, torch.tensor([0.0, 3e-7, 0.0]))
    kept = found.rounded(matrix)
    assert torch.equal(kept[2], whole.rounded(matrix)[2])
    rest = matrix[0, 32:]
    assert float((kept[0, 32:] - rest).square().mean()) <= float(
        (whole.rounded(matrix)[0, 32:] - rest).square().mean()
    ) * (1 + 1e-6)
    assert not kept[0, :32].any()
    assert not kept[1].any()
    # A channel of zeros has the scale that its bias needs, as in plain INT8: any larger one would round the bias.
    assert float(found.channel[1]) == pytest.approx(3e-7)


@pytest.mark.parametrize("bits", [2, 3, 4, 5])
def test_groups_lose_less_than_one_scale_and_hardly_more_than_free_ones(bits: int) -> None:
    matrix = drawn(16, 256)

    def error(group: int | None, levels: bool) -> float:
        granularity = PerChannel() if group is None else PerGroup(group)
        grid = fit_grid(matrix, bits, granularity, ZeroPoint.SYMMETRIC, Observer.MSE)
        found = two_level(grid, matrix, 127, torch.zeros(16)) if levels else grid
        return float((found.rounded(matrix) - matrix).square().mean())

    assert error(32, True) < 0.97 * error(None, True)
    # Multiples up to 15 come within a few percent of free scales; with five bits they go up to 7.
    assert error(32, True) < (1.15 if bits < 5 else 1.25) * error(32, False)


@pytest.mark.parametrize(
    ("width", "size"), [(27, 27), (32, 32), (64, 32), (40, 20), (1000, 25), (144, 24), (37, 37), (1009, 1009)]
)
def test_groups_are_equal(width: int, size: int) -> None:
    assert equal_groups(width, 32) == size


@given(
    bits=st.integers(2, 7),
    groups=st.integers(1, 3),
    size=st.integers(1, 5),
    rows=st.integers(1, 5),
    axis=st.integers(0, 1),
    seed=st.integers(0, 99),
)
@settings(max_examples=40, deadline=None)
def test_packed_weights_expand_to_what_they_stand_for(
    bits: int, groups: int, size: int, rows: int, axis: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2**bits, (rows, groups * size)).astype(np.uint8)
    top = max(largest_multiple(bits, 127), 1)
    multiples = rng.integers(1, top + 1, (rows, groups)).astype(np.uint8) if groups > 1 else None
    shape = (rows, groups * size) if axis == 0 else (groups * size, rows)
    factors = None if multiples is None else torch.from_numpy(multiples)
    weight = StoredWeight(
        bits, size if groups > 1 else groups * size, torch.from_numpy(codes), factors, shape, axis
    )
    wanted = codes.astype(int) - 2 ** (bits - 1)
    if multiples is not None:
        wanted = wanted * multiples.astype(int).repeat(size, axis=1)
    found = weight.values()
    assert found.dtype == torch.int8
    assert np.array_equal(found.numpy(), wanted if axis == 0 else wanted.T)
    assert torch.equal(weight.packed()[0], pack_codes(torch.from_numpy(codes), bits))
