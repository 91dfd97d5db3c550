"""Blocks of the mobile networks: shapes, costs by the papers' formulas, and the conventions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tenfold.cost import profile
from tenfold.nn import (
    Activation,
    ConvNormAct,
    ConvStyle,
    DepthwiseSeparableConv,
    FusedInvertedResidual,
    InvertedResidual,
    SamePadding,
    Squeeze,
    StochasticDepth,
    round_channels,
)

SIDE = 14


def macs(module: nn.Module, channels: int) -> int:
    return profile(module, torch.zeros(1, channels, SIDE, SIDE)).macs


@given(st.floats(1.0, 4000.0))
def test_rounding_is_to_eights_and_never_a_tenth_below(channels: float) -> None:
    rounded = round_channels(channels)
    assert rounded % 8 == 0
    assert rounded >= max(8, 0.9 * channels)
    assert rounded <= max(8.0, channels + 8)  # one group above at most


def test_the_rule_fires_in_efficientnet_b3() -> None:
    assert [round_channels(16 * width) for width in (1.0, 1.1, 1.2)] == [16, 16, 24]


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_costs_are_the_formulas(kernel: int, stride: int) -> None:
    cin, cout, hidden, squared = 24, 40, 144, kernel * kernel
    before, after = SIDE**2, (SIDE // stride) ** 2
    separable = DepthwiseSeparableConv(cin, cout, kernel, stride)
    assert macs(separable, cin) == (squared * cin + cin * cout) * after
    inverted = InvertedResidual(cin, cout, hidden, kernel, stride)
    wanted = cin * hidden * before + (squared * hidden + hidden * cout) * after
    assert macs(inverted, cin) == wanted
    squeezed = InvertedResidual(cin, cout, hidden, kernel, stride, squeeze=Squeeze.EFFICIENTNET)
    assert macs(squeezed, cin) == wanted + 2 * hidden * (cin // 4)
    fused = FusedInvertedResidual(cin, cout, hidden, kernel, stride)
    assert macs(fused, cin) == (squared * cin * hidden + hidden * cout) * after
    plain = FusedInvertedResidual(cin, cout, cin, kernel, stride)
    assert macs(plain, cin) == squared * cin * cout * after


def test_depthwise_separable_against_standard() -> None:
    """K = 3 and 256 channels: 589,824 weights become 67,840, 8.69 times fewer."""
    separable = DepthwiseSeparableConv(256, 256)
    weights = [m.weight.numel() for m in separable.modules() if isinstance(m, nn.Conv2d)]
    assert (256 * 256 * 9, sum(weights)) == (589_824, 67_840)
    assert macs(ConvNormAct(256, 256, 3), 256) / macs(separable, 256) == pytest.approx(8.694, abs=1e-3)


def test_squeeze_conventions() -> None:
    """EfficientNet: a quarter of the input, unrounded; MobileNetV3: of the expansion, in eights."""
    assert Squeeze.EFFICIENTNET.width(inputs=40, hidden=240) == 10
    assert Squeeze.MOBILENET_V3.width(inputs=40, hidden=240) == 64
    layer = Squeeze.EFFICIENTNET.layer(16, 96, Activation.SILU)
    assert (layer.reduce.out_channels, type(layer.act), type(layer.gate)) == (4, nn.SiLU, nn.Sigmoid)
    layer = Squeeze.MOBILENET_V3.layer(16, 96, Activation.HARD_SWISH)
    assert (layer.reduce.out_channels, type(layer.act), type(layer.gate)) == (24, nn.ReLU, nn.Hardsigmoid)
    x = torch.randn(2, 96, 5, 5)
    means = x.mean((2, 3))
    gates = F.hardsigmoid(
        F.linear(
            F.relu(F.linear(means, layer.reduce.weight.flatten(1), layer.reduce.bias)),
            layer.expand.weight.flatten(1),
            layer.expand.bias,
        )
    )
    torch.testing.assert_close(layer(x), x * gates[:, :, None, None])


def test_shortcuts_join_equal_shapes_only() -> None:
    assert InvertedResidual(16, 16, 96).shortcut
    assert not InvertedResidual(16, 24, 96).shortcut
    assert not InvertedResidual(16, 16, 96, stride=2).shortcut
    assert not InvertedResidual(16, 16, 96, shortcut=False).shortcut
    assert not DepthwiseSeparableConv(16, 16).shortcut
    assert DepthwiseSeparableConv(16, 16, linear=True).shortcut
    block = InvertedResidual(16, 16, 96).eval()
    nn.init.zeros_(block.project.norm.weight)
    x = torch.randn(1, 16, 6, 6)
    assert torch.equal(block(x), x)  # the bottleneck is linear: nothing follows the sum


@given(st.integers(1, 40), st.sampled_from([3, 5, 7]), st.sampled_from([1, 2, 3]))
def test_same_padding_gives_the_ceiling_and_pads_the_end(side: int, kernel: int, stride: int) -> None:
    padded = SamePadding(kernel, stride)(torch.ones(1, 1, side, side))
    total = padded.shape[-1] - side
    assert (padded.shape[-1] - kernel) // stride + 1 == -(-side // stride)
    assert int((padded[0, 0, side // 2 + total // 2] == 0).sum()) == total
    before = int((padded[0, 0, :, padded.shape[-1] // 2].cumsum(0) == 0).sum())
    assert before == total // 2


def test_same_padding_at_stride_two_shifts_an_even_image() -> None:
    style = ConvStyle(same_padding=True)
    layer = ConvNormAct(1, 1, 3, 2, style=style, activation=False).eval()
    x = torch.randn(1, 1, 8, 8)
    wanted = F.conv2d(F.pad(x, (0, 1, 0, 1)), layer.conv.weight, stride=2) / (1 + layer.norm.eps) ** 0.5
    torch.testing.assert_close(layer(x), wanted)


def test_stochastic_depth_keeps_the_mean_and_whole_examples() -> None:
    torch.manual_seed(0)
    layer = StochasticDepth(0.25)
    y = layer(torch.ones(4000, 2, 3))
    assert y.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert torch.equal(y.amin((1, 2)), y.amax((1, 2)))
    assert y.mean() == pytest.approx(1.0, abs=0.03)
    x = torch.randn(2, 3)
    assert layer.eval()(x) is x


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="kernel's side must be odd, not 4"):
        ConvNormAct(8, 8, 4)
    with pytest.raises(ValueError, match="stochastic depth must be at least 0 and below 1, not 1"):
        StochasticDepth(1.0)
