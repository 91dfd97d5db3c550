"""Layers of every kind against hand formulas."""

from __future__ import annotations

import pytest
import torch
from count_networks import Function
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from tenfold.cost import profile


@settings(deadline=None, max_examples=40)
@given(
    dimensions=st.integers(1, 3),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    size=st.integers(5, 8),
    batch=st.integers(1, 2),
)
def test_convolutions_of_every_form(
    dimensions, groups, channels, kernel, stride, padding, dilation, size, batch
):
    conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[dimensions - 1](
        groups * channels[0], groups * channels[1], kernel, stride, padding, dilation, groups
    )
    x = torch.empty(batch, conv.in_channels, *[size] * dimensions)
    out = (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
    expected = batch * out**dimensions * conv.out_channels * channels[0] * kernel**dimensions
    counted = profile(conv, x)
    assert counted.macs == expected
    assert counted.params == sum(p.numel() for p in conv.parameters())


@settings(deadline=None, max_examples=20)
@given(
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 3),
)
def test_transposed_convolutions_spread_each_input_element(groups, channels, kernel, stride):
    conv = nn.ConvTranspose2d(groups * channels[0], groups * channels[1], kernel, stride, groups=groups)
    counted = profile(conv, torch.empty(2, conv.in_channels, 5, 4))
    assert counted.macs == 2 * 5 * 4 * conv.in_channels * channels[1] * kernel**2


def test_depthwise_separable_against_standard():
    """K²·C·H·W + C·Cout·H·W against K²·C·Cout·H·W: 8.69 times fewer at K = 3, Cout = 256."""
    separable = nn.Sequential(
        nn.Conv2d(64, 64, 3, padding=1, groups=64, bias=False), nn.Conv2d(64, 256, 1, bias=False)
    )
    x = torch.empty(1, 64, 14, 14)
    counted = profile(separable, x)
    standard = profile(nn.Conv2d(64, 256, 3, padding=1, bias=False), x)
    assert [layer.kind for layer in counted.layers] == ["depthwise", "dense"]
    assert standard.macs / counted.macs == pytest.approx(9 * 256 / (9 + 256))


@pytest.mark.parametrize("causal", [False, True])
def test_grouped_query_attention_counts_every_query_head(causal):
    q, kv = torch.empty(2, 8, 10, 16), torch.empty(2, 2, 20, 16)
    attend = Function(
        lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    )
    assert profile(attend, (q, kv, kv)).macs == 2 * 2 * 8 * 10 * 20 * 16


def test_attention_without_a_fused_kernel_has_the_same_count():
    q = torch.empty(1, 4, 10, 16)
    fused = profile(Function(lambda _, q: F.scaled_dot_product_attention(q, q, q)), q)
    plain = profile(Function(lambda _, q: torch.softmax(q @ q.mT / 4, -1) @ q), q)
    assert fused.macs == plain.macs == 2 * 4 * 10 * 10 * 16
    assert plain.peak_activation_bytes > fused.peak_activation_bytes  # the 10×10 scores


@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention_is_not_lost_in_its_fast_path(need_weights):
    attention = nn.MultiheadAttention(32, 4, batch_first=True)
    x = torch.empty(2, 7, 32)
    counted = profile(attention, {"query": x, "key": x, "value": x, "need_weights": need_weights})
    assert counted.macs == 2 * (4 * 7 * 32 * 32 + 2 * 7 * 7 * 32)


@pytest.mark.parametrize("directions", [1, 2])
def test_lstm_and_gru(directions):
    for kind, gates in ((nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)):
        layer = kind(5, 6, 2, bidirectional=directions == 2)
        expected = 3 * 7 * directions * gates * 6 * ((5 + 6) + (6 * directions + 6))
        assert profile(layer, torch.empty(7, 3, 5)).macs == expected, kind


def test_products_of_every_spelling():
    a, b = torch.empty(3, 4, 5), torch.empty(3, 5, 6)
    for function, expected in (
        (lambda _, a, b: torch.einsum("bij,bjk->bik", a, b), 3 * 4 * 5 * 6),
        (lambda _, a, b: a @ b, 3 * 4 * 5 * 6),
        (lambda _, a, b: torch.baddbmm(a @ b, a, b), 2 * 3 * 4 * 5 * 6),
        (lambda _, a, b: a[0] @ b[0], 4 * 5 * 6),
        (lambda _, a, b: a[0] @ b[0, :, 0], 4 * 5),
        (lambda _, a, b: a[0, 0] @ b[0, :, 0], 5),
        (lambda _, a, b: torch.addbmm(a[0] @ b[0], a, b), 4 * 5 * 6 + 3 * 4 * 5 * 6),
        (lambda _, a, b: F.linear(a, b[0].t()), 3 * 4 * 5 * 6),
        (lambda _, a, b: torch.tensordot(a, b, dims=([0, 2], [0, 1])), 4 * 6 * 15),
        (lambda _, a, b: a * 2 + 1, 0),
    ):
        counted = profile(Function(function), (a, b))
        assert counted.macs == expected
        assert counted.unknown == ()


def test_bilinear():
    counted = profile(nn.Bilinear(3, 4, 5), (torch.empty(2, 3), torch.empty(2, 4)))
    assert counted.macs == 2 * 2 * 5 * 3 * 4


def test_inference_mode_inside_the_network_hides_nothing():
    class Inner(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(8, 4)
            self.conv = nn.Conv1d(2, 3, 3)

        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x).sum() + self.conv(x).sum()

    assert profile(Inner(), torch.empty(5, 2, 8)).macs == 5 * 2 * 8 * 4 + 5 * 3 * 6 * 2 * 3


def test_causal_attention_reports_its_useful_half_beside_the_dense_count():
    """Query i sees keys 0 to i, aligned at the first of each: n·(n + 1)/2 of n·n scores."""

    def attend(lq: int, lk: int, value: int = 16):
        q, k, v = torch.empty(1, 4, lq, 16), torch.empty(1, 4, lk, 16), torch.empty(1, 4, lk, value)
        return profile(
            Function(lambda _, q, k, v: F.scaled_dot_product_attention(q, k, v, is_causal=True)), (q, k, v)
        )

    for counted, pairs in ((attend(10, 10), 55), (attend(4, 10), 10), (attend(10, 4), 34)):
        dense = counted.macs
        assert counted.causal_macs * (10 if dense == 2 * 4 * 10 * 10 * 16 else 1) > 0
        (call,) = counted.operators
        assert call.macs - call.masked_macs == 2 * 4 * pairs * 16
    # Values of another width than keys have no fused kernel on the CPU: two products and a mask of ones.
    plain = attend(10, 10, value=8)
    assert plain.macs == 4 * 100 * (16 + 8)
    assert plain.causal_macs == 4 * 55 * (16 + 8)


def test_flexible_attention():
    flex = pytest.importorskip("torch.nn.attention.flex_attention")
    if not hasattr(flex, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG"):
        pytest.skip("this torch compiles it in any case")
    q = torch.empty(1, 2, 128, 16)
    assert profile(Function(lambda _, q: flex.flex_attention(q, q, q)), q).macs == 2 * 2 * 128 * 128 * 16


def test_the_fast_path_of_an_encoder_layer_counts_as_the_plain_one():
    for norm_first in (False, True):
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=norm_first)
        x = torch.empty(2, 7, 32)
        fast = profile(layer, x)
        enabled = torch.backends.mha.get_fastpath_enabled()
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            plain = profile(layer, x)
        finally:
            torch.backends.mha.set_fastpath_enabled(enabled)
        assert fast.macs == plain.macs == 2 * (4 * 7 * 32 * 32 + 2 * 7 * 7 * 32 + 2 * 7 * 32 * 64)
        assert {entry.name for entry in fast.layers if entry.macs} == {
            "self_attn", "self_attn.out_proj", "linear1", "linear2"
        }  # fmt: skip
        own = sum(entry.params for entry in fast.layers if entry.name == "self_attn")
        assert own == 3 * 32 * 32 + 3 * 32
        assert sum(entry.params for entry in fast.layers) == fast.params


def test_padding_of_an_encoder_is_counted():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2)
    x, padded = torch.empty(2, 7, 32), torch.zeros(2, 7, dtype=torch.bool)
    counted = profile(encoder, {"src": x, "src_key_padding_mask": padded})
    assert counted.macs == profile(encoder, x).macs
    assert counted.unknown == ()


@pytest.mark.skipif("x86" not in torch.backends.quantized.supported_engines, reason="kernels of x86")
@pytest.mark.filterwarnings("ignore")
def test_layers_that_keep_quantised_weights_packed():
    """Their parameters() are empty, and counters that trust those print nothing at all."""
    quantized = torch.ao.quantization.quantize_dynamic(
        nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10)), {nn.Linear}, dtype=torch.qint8
    )
    counted = profile(quantized, torch.rand(4, 64))
    assert counted.params == 64 * 128 + 128 + 128 * 10 + 10
    assert counted.weight_bytes == 64 * 128 + 128 * 10 + 4 * (128 + 10)
    assert counted.macs == 4 * (64 * 128 + 128 * 10)
    assert [layer.params for layer in counted.layers] == [64 * 128 + 128, 0, 128 * 10 + 10]
    assert counted.layers[0].bytes_read == 4 * 64 * 4 + 64 * 128 + 4 * 128
    assert counted.unknown == ()

    lstm = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.LSTM(8, 16)), {nn.LSTM}, dtype=torch.qint8)
    counted = profile(lstm, torch.rand(5, 2, 8))
    assert counted.macs == 5 * 2 * 4 * 16 * (8 + 16)
    assert counted.params == 4 * 16 * (8 + 16 + 2)


@pytest.mark.skipif("x86" not in torch.backends.quantized.supported_engines, reason="kernels of x86")
@pytest.mark.filterwarnings("ignore")
def test_a_statically_quantised_network_runs_to_be_counted():
    ao = torch.ao.quantization
    model = nn.Sequential(
        ao.QuantStub(), nn.Conv2d(3, 6, 3, groups=3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 36, 5), ao.DeQuantStub()
    ).eval()  # fmt: skip
    model.qconfig = ao.get_default_qconfig("x86")
    ao.prepare(model, inplace=True)
    x = torch.rand(2, 3, 8, 8)
    model(x)
    ao.convert(model, inplace=True)
    counted = profile(model, x)
    assert counted.macs == 2 * 6 * 36 * 9 + 2 * 6 * 36 * 5
    assert counted.params == 6 * 9 + 6 + 6 * 36 * 5 + 5
    assert counted.unknown == ()
    assert next(layer for layer in counted.layers if layer.name == "1").kind == "depthwise"


def test_a_transform_has_operations_and_no_macs():
    """5·N·log2 N for N complex points (FNet's mixing, formulas.attention.fourier_flops)."""
    from tenfold.cost.formulas.attention import fourier_flops

    counted = profile(
        Function(lambda _, x: torch.fft.fft2(x).real), torch.empty(16, 32, dtype=torch.complex64)
    )
    assert counted.macs == 0
    assert counted.other_flops == fourier_flops(16, 32)


def test_grouped_products_of_experts_in_any_type():
    rows, experts = torch.empty(12, 8), torch.empty(3, 8, 16)
    grouped = Function(lambda _, a, b, ends: torch._grouped_mm(a, b, offs=ends))
    assert profile(grouped, (rows, experts, torch.tensor([4, 8, 12], dtype=torch.int32))).macs == 12 * 8 * 16


def test_inputs_of_any_structure():
    def forward(_, tree, *, scale: float, pair):
        return tree["a"][0] @ pair[1] * scale

    counted = profile(
        Function(forward),
        {"tree": {"a": [torch.empty(3, 4)]}, "scale": 2.0, "pair": (None, torch.empty(4, 5))},
    )
    assert counted.macs == 3 * 4 * 5
    assert counted.input_shapes == ((3, 4), (4, 5))


def test_weights_that_are_made_of_tensors():
    """As quantised weights of torchao are: a subclass that calls operators on its parts, here two matrices."""
    two = pytest.importorskip("torch.testing._internal.two_tensor")
    layer = nn.Linear(4, 8, bias=False)
    layer.weight = nn.Parameter(two.TwoTensor(torch.rand(8, 4), torch.rand(8, 4)))
    counted = profile(layer, torch.rand(2, 4))
    assert (counted.params, counted.weight_bytes) == (32, 2 * 4 * 32)
    assert counted.macs == 2 * (2 * 4 * 8)
