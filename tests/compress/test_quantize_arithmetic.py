"""Scales, integers and ranges against NumPy written from the definitions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.compress.quantize import affine, ops
from tenfold.compress.quantize.observe import least_error_range, percentile_range


def reference_quantize(x: np.ndarray, scale: float, zero: int) -> np.ndarray:
    # ONNX QuantizeLinear: saturate(round_half_to_even(x / scale) + zero), in float32
    q = np.rint(x.astype(np.float32) / np.float32(scale)) + np.float32(zero)
    return np.clip(q, 0, 255).astype(np.uint8)


@given(
    seed=st.integers(0, 2**31), scale=st.floats(2**-13, 8, width=32), zero=st.integers(0, 255),
    size=st.integers(1, 40),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_quantize_and_dequantize_are_the_onnx_definitions(
    seed: int, scale: float, zero: int, size: int
) -> None:
    x = (np.random.default_rng(seed).standard_normal(size) * 100 * scale).astype(np.float32)
    s, z = torch.tensor(scale), torch.tensor(zero, dtype=torch.uint8)
    q = torch.ops.tenfold.quantize(torch.from_numpy(x), s, z)
    assert np.array_equal(q.numpy(), reference_quantize(x, scale, zero))
    back = torch.ops.tenfold.dequantize(q, s, z).numpy()
    expected = (q.numpy().astype(np.int32) - zero).astype(np.float32) * np.float32(scale)
    assert np.array_equal(back, expected)


def test_ties_round_to_even() -> None:
    x = torch.tensor([0.5, 1.5, 2.5, 3.5])
    q = torch.ops.tenfold.quantize(x, torch.tensor(1.0), torch.tensor(0, dtype=torch.uint8))
    assert q.tolist() == [0, 2, 2, 4]


@given(low=st.floats(-1e4, 1e4), width=st.floats(0, 1e4))
@settings(deadline=None)
def test_zero_is_exact_and_the_range_is_covered(low: float, width: float) -> None:
    high = low + width
    a = affine.affine_of_range(low, high)
    assert a.scale > 0
    assert 0 <= a.zero_point <= 255
    if max(high, 0) - min(low, 0) > 255 * affine.TINY:
        bottom, top = a.scale * (0 - a.zero_point), a.scale * (255 - a.zero_point)
        assert bottom <= min(low, 0) + a.scale * 0.51
        assert top >= max(high, 0) - a.scale * 0.51


def test_a_range_of_zeros_has_a_usable_scale() -> None:
    assert affine.affine_of_range(0.0, 0.0) == affine.Affine(1.0, 0)


@pytest.mark.parametrize(("bits", "limit"), [(7, 63), (8, 127)])
@pytest.mark.parametrize("axis", [0, 1])
def test_weights_stay_within_their_bits_and_half_a_step(bits: int, limit: int, axis: int) -> None:
    weight = torch.randn(5, 6, 3, 3) * torch.logspace(-3, 2, 6).reshape(1, 6, 1, 1)
    scale = affine.weight_scales(weight, axis, bits)
    q = affine.round_weight(weight, scale, axis, bits)
    assert q.dtype == torch.int8
    assert int(q.abs().max()) == limit
    error = (ops.dequantize_channels(q, scale, axis) - weight).abs()
    assert bool((error <= 0.5001 * ops.along(scale, axis, 4)).all())


def test_dead_channels_keep_their_bias() -> None:
    weight, bias = torch.zeros(3, 4), torch.tensor([0.0, 5.0, -1e3])
    scale = affine.weight_scales(weight, 0, 8, bias, input_scale=0.01)
    q = affine.round_bias(bias, scale * 0.01)
    assert bool((scale > 0).all())
    assert torch.allclose(q * (scale * 0.01), bias, rtol=1e-6)


def test_a_large_bias_fits_int32() -> None:
    weight, bias = torch.full((1, 4), 1e-8), torch.tensor([1e6])
    scale = affine.weight_scales(weight, 0, 8, bias, input_scale=1e-3)
    q = affine.round_bias(bias, scale * 1e-3)
    assert abs(int(q)) < 2**31 - 1
    assert float(q * scale * 1e-3) == pytest.approx(1e6, rel=1e-5)


@given(seed=st.integers(0, 2**31), offset=st.floats(-5, 5))
@settings(max_examples=30, deadline=None)
def test_dynamic_rounding_is_the_onnx_definition(seed: int, offset: float) -> None:
    x = (np.random.default_rng(seed).standard_normal((3, 7)) + offset).astype(np.float32)
    low, high = min(x.min(), np.float32(0)), max(x.max(), np.float32(0))
    scale = np.float32((high - low) / np.float32(255))
    zero = int(np.clip(np.rint(-low / scale), 0, 255))
    expected = (reference_quantize(x, float(scale), zero).astype(np.float32) - zero) * scale
    assert np.allclose(ops.quantized_at_run_time(torch.from_numpy(x)).numpy(), expected, atol=1e-6)


def test_dynamic_rounding_of_zeros_is_zero() -> None:
    assert torch.equal(ops.quantized_at_run_time(torch.zeros(2, 3)), torch.zeros(2, 3))


def test_percentile_leaves_out_the_tails() -> None:
    counts = torch.zeros(2048, dtype=torch.float64)
    counts[0], counts[-1], counts[512:1536] = 1, 1, 1000  # two outliers around a million values
    low, high = percentile_range(counts, -8.0, 8.0)
    assert -4.0 <= low < -3.9
    assert 3.9 < high <= 4.0


def test_the_least_error_range_beats_the_full_range_on_heavy_tails() -> None:
    x = torch.cat(
        [torch.randn(200_000, generator=torch.Generator().manual_seed(0)), torch.tensor([-30.0, 40.0])]
    )
    counts = torch.histc(x, 2048, -30.0, 40.0).double()

    def squared_error(low: float, high: float) -> float:
        a = affine.affine_of_range(low, high)
        s, z = torch.tensor(a.scale), torch.tensor(a.zero_point, dtype=torch.uint8)
        return float((ops.dequantize(ops.quantize(x, s, z), s, z) - x).square().mean())

    assert squared_error(*least_error_range(counts, -30.0, 40.0)) < 0.7 * squared_error(-30.0, 40.0)
