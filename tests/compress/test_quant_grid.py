"""Grids, ranges and packed codes of weights."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.compress.quantize.codes import pack_codes, packed_bytes, unpack_codes
from tenfold.compress.quantize.grid import Granularity, PerChannel, PerGroup, PerTensor, ZeroPoint
from tenfold.compress.quantize.observe import Observer, least_divergence_range
from tenfold.compress.quantize.ops import unpack_weight
from tenfold.compress.quantize.ranges import fit_grid

GRANULARITIES: list[Granularity] = [PerTensor(), PerChannel(), PerGroup(4), PerGroup(5)]


@given(bits=st.integers(2, 8), count=st.integers(0, 100), seed=st.integers(0, 99))
def test_codes_come_back_and_take_no_more_room_than_they_must(bits: int, count: int, seed: int) -> None:
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(seed))
    packed = pack_codes(codes, bits)
    assert len(packed) == packed_bytes(count, bits) == -(-count * bits // 8)
    assert unpack_codes(packed, bits, count).tolist() == codes.tolist()
    stream = int.from_bytes(bytes(packed.tolist()), "little")
    assert [(stream >> (bits * i)) % 2**bits for i in range(count)] == codes.tolist()


def matrix(seed: int = 0, rows: int = 6, width: int = 13) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("zero_point", list(ZeroPoint))
@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounding_errs_by_half_a_step_within_the_range(
    bits: int, granularity: Granularity, zero_point: ZeroPoint
) -> None:
    w = matrix() + 0.5
    grid = fit_grid(w, bits, granularity, zero_point, Observer.MINMAX)
    scale, zero = grid.columns(w.shape[1])
    half = 0.5 * scale * (1 + 1e-5)
    # An integer zero point may move the range by half a step, a scale in bfloat16 shorten it by its own error.
    slack = scale * 0.5 + w.abs() * 2**-7 + (zero * scale * 2**-7 if zero_point is ZeroPoint.REAL else 0)
    assert bool(((grid.rounded(w) - w).abs() <= half + slack).all())
    assert grid.quantized(w).max() <= 2**bits - 1
    if zero_point is ZeroPoint.INTEGER:
        assert torch.equal(grid.zero_point, grid.zero_point.round())
        assert torch.equal(grid.rounded(torch.zeros_like(w)), torch.zeros_like(w))


@pytest.mark.parametrize("granularity", GRANULARITIES, ids=str)
@pytest.mark.parametrize("zero_point", list(ZeroPoint))
def test_the_stored_form_says_exactly_what_the_grid_does(
    granularity: Granularity, zero_point: ZeroPoint
) -> None:
    w = matrix(3)
    grid = fit_grid(w, 3, granularity, zero_point, Observer.MSE)
    stored = torch.bfloat16 if isinstance(granularity, PerGroup) else torch.float32
    assert torch.equal(grid.scale.to(stored).float(), grid.scale)
    codes = grid.quantized(w)
    zero = None if zero_point is ZeroPoint.SYMMETRIC else grid.zero_point.to(stored)
    packed = pack_codes(codes, 3)
    again = unpack_weight(packed, grid.scale.to(stored), zero, 3, [6, 13], 0, grid.group)
    assert torch.equal(again, grid.dequantized(codes))
    turned = unpack_weight(packed, grid.scale.to(stored), zero, 3, [13, 6], 1, grid.group)
    assert torch.equal(turned, grid.dequantized(codes).t())


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), bits=st.integers(2, 8), group=st.integers(2, 20))
def test_the_least_error_is_no_greater_than_that_of_the_whole_range(seed: int, bits: int, group: int) -> None:
    w = matrix(seed) ** 3
    for granularity in (PerChannel(), PerGroup(group)):
        for zero_point in ZeroPoint:
            errors = [
                float((fit_grid(w, bits, granularity, zero_point, o).rounded(w) - w).square().sum())
                for o in (Observer.MSE, Observer.MINMAX)
            ]
            assert errors[0] <= errors[1] * (1 + 1e-6)


@pytest.mark.parametrize("observer", [Observer.PERCENTILE, Observer.ENTROPY, Observer.MSE])
def test_a_far_outlier_is_cut_off(observer: Observer) -> None:
    w = matrix(1, 1, 30_000)
    w[0, 7] = 60.0
    grid = fit_grid(w, 4, PerChannel(), ZeroPoint.SYMMETRIC, observer)
    whole = fit_grid(w, 4, PerChannel(), ZeroPoint.SYMMETRIC, Observer.MINMAX)
    assert float(grid.scale) < 0.5 * float(whole.scale)


def test_entropy_keeps_the_range_of_what_fills_it_and_cuts_long_tails() -> None:
    even = torch.ones(2048, dtype=torch.float64)
    assert least_divergence_range(even, 0.0, 1.0) == (0.0, 1.0)
    centres = torch.linspace(-1, 1, 2048, dtype=torch.float64)
    tailed = torch.exp(-((centres / 0.05) ** 2)) * 1e6
    tailed[-1] = 1.0
    low, high = least_divergence_range(tailed.round(), -1.0, 1.0)
    assert high == -low
    assert high < 0.5


def test_constant_and_zero_rows_have_a_usable_grid() -> None:
    w = torch.stack([torch.zeros(8), torch.full((8,), 0.3), torch.full((8,), -0.3)])
    for zero_point in ZeroPoint:
        for observer in Observer:
            for granularity in GRANULARITIES[1:]:
                rounded = fit_grid(w, 4, granularity, zero_point, observer).rounded(w)
                assert bool(torch.isfinite(rounded).all())
                assert torch.equal(rounded[0], torch.zeros(8))
