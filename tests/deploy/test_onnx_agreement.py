"""ONNX Runtime and the PyTorch form of the same integers agree, for layers of every shape."""

from __future__ import annotations

import pytest
import torch
from deploy_networks import Block, fused_operators, images, quantised, seeded
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from tenfold.compress.quantize import Mode, PerTensor, ZeroPoint
from tenfold.deploy import OnnxRunner, export_onnx
from tenfold.deploy.verification import reference


@given(
    channels=st.sampled_from([1, 3, 4, 7]), out=st.sampled_from([1, 2, 5]), depthwise=st.booleans(),
    kernel=st.integers(1, 3), stride=st.integers(1, 2), padding=st.integers(0, 1), bias=st.booleans(),
    static=st.booleans(),
)  # fmt: skip
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_convolutions_agree(tmp_path, channels, out, depthwise, kernel, stride, padding, bias, static):
    torch.manual_seed(0)
    groups = channels if depthwise else 1
    model = nn.Sequential(
        nn.Conv2d(channels, out * groups, kernel, stride, padding, groups=groups, bias=bias), nn.ReLU()
    ).eval()
    x = torch.randn(5, channels, 9, 8, generator=torch.Generator().manual_seed(1))
    module, path = quantised(model, x, Mode.STATIC if static else Mode.DYNAMIC), tmp_path / "conv.onnx"
    export_onnx(module, x, path)
    expected, actual = reference(module, x), OnnxRunner(path)(x)
    step = float(module.state_dict()["int8.1.relu.scale"]) if static else 1e-4
    assert float((expected - actual).abs().max()) <= 1.001 * step  # the last rounding may fall the other way
    if static:
        assert float((expected != actual).float().mean()) < 0.02
        assert fused_operators(path)["QLinearConv"] == 1


@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
@pytest.mark.parametrize("shape", [(6, 5), (6, 3, 5)])
def test_linear_layers_agree(tmp_path, mode, shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 3, bias=False)).eval()
    x = torch.randn(*shape)
    module, path = quantised(model, x, mode), tmp_path / "linear.onnx"
    export_onnx(module, x, path)
    assert float((reference(module, x) - OnnxRunner(path)(x)).abs().max()) < 0.01
    fused = fused_operators(path)
    assert not {"MatMul", "Gemm"} & set(fused)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_one_scale_a_weight_and_zero_in_the_middle_agree(tmp_path, mode, symmetric):
    activations = ZeroPoint.SYMMETRIC if symmetric else ZeroPoint.INTEGER
    module = quantised(seeded(Block), images(), mode, granularity=PerTensor(), activations=activations)
    path = tmp_path / "block.onnx"
    export_onnx(module, images(2), path)
    expected, actual = reference(module, images()), OnnxRunner(path)(images())
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-2 * float(expected.abs().max()))
    assert float((expected - actual).abs().mean()) < 1e-3 * float(expected.abs().max())
    if mode is Mode.STATIC:
        fused = fused_operators(path)
        assert fused["QLinearConv"] == 4
        assert not {"Conv", "FusedConv", "Relu", "Add", "Gemm"} & set(fused)
        assert fused["Clip"] == 3 * symmetric  # ReLU6 and two ReLUs, of codes


@pytest.mark.parametrize(
    ("width", "activations"), [(1, ZeroPoint.INTEGER), (5, ZeroPoint.INTEGER), (5, ZeroPoint.SYMMETRIC)]
)
def test_layers_left_float_between_integers_are_not_rounded_by_the_runtime(tmp_path, width, activations):
    floats, path = ("depthwise", "expand", "fc"), tmp_path / "block.onnx"
    module = quantised(seeded(Block, width), images(), floats=floats, activations=activations)
    export_onnx(module, images(2), path)
    expected, actual = reference(module, images()), OnnxRunner(path)(images())
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-2 * float(expected.abs().max()))
    fused = fused_operators(path)
    assert fused["QLinearConv"] == 2
    assert fused["Conv"] + fused["FusedConv"] == 2
    assert fused["Gemm"] == 1
    assert fused["Relu"] == 0
    assert fused["Clip"] == (
        activations is ZeroPoint.SYMMETRIC
    )  # that of an integer layer; a float one has its own


class Moved(nn.Module):
    """Layers in the middle that read what others have moved: padded and pooled, shuffled, flattened."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.pooled, self.shuffled = (nn.Conv2d(n, 4, 3, padding=1) for n in (3, 4, 4))
        self.pool = nn.Sequential(nn.ZeroPad2d(1), nn.MaxPool2d(3, 2))  # which ONNX Runtime makes one
        self.shuffle = nn.ChannelShuffle(2)
        self.flat, self.head = nn.Linear(100, 6), nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.pooled(self.pool(self.stem(x).relu())).relu()
        return self.head(self.flat(self.shuffled(self.shuffle(x)).flatten(1)).relu())


@pytest.mark.parametrize("name", ["pooled", "shuffled", "flat"])
def test_nor_are_those_that_read_what_was_only_moved(tmp_path, name):
    model, path = seeded(Moved), tmp_path / "moved.onnx"
    with torch.no_grad():  # one scale for a weight would leave nothing of the other channels
        getattr(model, name).weight[0] *= 1000
    module = quantised(model, images(), floats=(name,))
    export_onnx(module, images(2), path)
    fused = fused_operators(path)
    assert fused["QLinearConv"] == (3 if name == "flat" else 2)
    assert fused["QGemm"] == (1 if name == "flat" else 2)
    assert fused["MaxPool"] == 0  # it moves integers
    expected = reference(module, images())
    assert float((OnnxRunner(path)(images()) - expected).norm() / expected.norm()) < 5e-3


@pytest.mark.parametrize(
    ("clamp", "parts"),
    [(nn.ReLU(), ["Max"]), (nn.ReLU6(), ["Max", "Min"]), (nn.Hardtanh(-0.5, 0.25), ["Max", "Min"])],
    ids=["relu", "relu6", "hardtanh"],
)
def test_a_clamp_that_only_floats_read_leaves_the_linear_layer_before_it_integer(tmp_path, clamp, parts):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), nn.Linear(7, 6), clamp, nn.Linear(6, 3)).eval()
    x, path = torch.randn(16, 5), tmp_path / "clamped.onnx"
    module = quantised(model, x, floats=("4",))
    export_onnx(module, x[:2], path)
    fused = fused_operators(path)
    assert fused["QGemm"] == 2
    assert fused["Gemm"] == 1
    assert fused["FusedGemm"] == fused["Clip"] == 0
    assert [fused[part] for part in parts] == [1] * len(parts)
    torch.testing.assert_close(OnnxRunner(path)(x), reference(module, x), rtol=1e-4, atol=1e-5)
