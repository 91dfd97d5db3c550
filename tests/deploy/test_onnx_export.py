"""The ONNX file: small, self-contained, with a dynamic batch; and clear errors where there can be none."""

from __future__ import annotations

import onnx
import pytest
import torch
from deploy_networks import Block, Pair, file_operators, fused_operators, images, quantised, seeded
from torch import Tensor, nn

from tenfold.compress.quantize import Mode
from tenfold.deploy import OnnxRunner, export_onnx, verify
from tenfold.errors import ExportError, OutputError


def test_a_float_network_is_exact_folded_and_dynamic(tmp_path):
    model, path = seeded(Block), tmp_path / "model.onnx"
    export_onnx(model, images(1), path)
    result = verify(model, OnnxRunner(path), images(7))
    assert result.ok
    assert result.max_error < 1e-5
    assert result.snr_db > 100
    assert "BatchNormalization" not in file_operators(path)
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_is_written_that_no_runtime_reads(tmp_path):
    path = tmp_path / "model.onnx"
    export_onnx(seeded(Block), images(2), path)
    proto = onnx.load(path)
    onnx.checker.check_model(proto, full_check=True)
    assert not proto.graph.value_info
    assert not any(node.metadata_props or node.doc_string or node.name for node in proto.graph.node)
    assert not any(t.external_data for t in proto.graph.initializer)
    assert [v.name for v in proto.graph.input] == ["x"]
    assert [v.name for v in proto.graph.output] == ["output"]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    weights = sum(len(t.raw_data) for t in proto.graph.initializer)
    assert path.stat().st_size - weights < 150 * len(proto.graph.node)


def test_static_int8_is_stored_as_integers_and_fused(tmp_path):
    model, path = seeded(Block), tmp_path / "int8.onnx"
    module = quantised(model, images())
    export_onnx(module, images(1), path)
    proto = onnx.load(path)
    floats = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.FLOAT]
    assert all(len(t.dims) <= 1 for t in floats)  # scales only
    assert "Relu" not in file_operators(path)
    fused = fused_operators(path)
    assert fused["QLinearConv"] == 4
    assert fused["QLinearAdd"] == fused["QLinearGlobalAveragePool"] == fused["QGemm"] == 1
    assert not {"Conv", "Add", "Gemm", "DequantizeLinear"} & set(fused)
    overhead = path.stat().st_size - sum(len(t.raw_data) for t in proto.graph.initializer)
    assert overhead / 5 < 700  # bytes for a layer that are not weights, scales and biases


def test_dynamic_int8_is_lowered_to_integer_products(tmp_path):
    model, path = seeded(Block), tmp_path / "dynamic.onnx"
    export_onnx(quantised(model, images(), Mode.DYNAMIC), images(1), path)
    operators = file_operators(path)
    assert operators["ConvInteger"] == 4
    assert operators["MatMulInteger"] == 1
    assert not {"Conv", "Gemm", "MatMul"} & set(operators)
    assert fused_operators(path)["DynamicQuantizeMatMul"] == 1


@pytest.mark.parametrize("mode", [None, Mode.STATIC, Mode.DYNAMIC])
def test_inputs_by_name_and_a_dict_of_outputs(tmp_path, mode):
    model, path = seeded(Pair), tmp_path / "pair.onnx"
    generator = torch.Generator().manual_seed(0)
    inputs = {n: torch.randn(8, 5, 6, generator=generator) for n in "ab"}
    module = model if mode is None else quantised(model, inputs, mode)
    export_onnx(module, inputs, path)
    assert verify(module, OnnxRunner(path), inputs, original=model).ok
    assert OnnxRunner(path).input_names == ["a", "b"]


def test_a_shared_layer_keeps_its_integers_apart(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.relu(self.conv(x)))

    model = seeded(Twice)
    module, path = quantised(model, images()), tmp_path / "twice.onnx"
    export_onnx(module, images(1), path)
    assert fused_operators(path)["QLinearConv"] == 2
    assert verify(module, OnnxRunner(path), images(), original=model).ok


@pytest.mark.parametrize("clamp", [torch.clamp, torch.clip])
def test_whole_and_fractional_bounds_together_are_exported(tmp_path, clamp):
    class Clamped(nn.Module):
        def forward(self, x):
            return clamp(x, -1, 0.5)

    path = tmp_path / "clamped.onnx"
    export_onnx(Clamped().eval(), images(1), path)
    x = images(5)
    assert torch.equal(torch.as_tensor(OnnxRunner(path)(x)), x.clamp(-1.0, 0.5))


@torch.library.custom_op("tenfold_tests::strange", mutates_args=())
def strange(x: Tensor) -> Tensor:
    return x * 2


@strange.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


class Strange(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return strange(x)


class Branches(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "words"), [(Strange(), "tenfold_tests.strange"), (Branches(), "Branches.forward")]
)
def test_what_cannot_be_exported_is_named(tmp_path, model, words):
    path = tmp_path / "model.onnx"
    with pytest.raises(ExportError, match=words) as raised:
        export_onnx(model, images(2), path)
    assert "\n" not in str(raised.value)
    assert not path.exists()


def test_nan_weights_and_unwritable_paths(tmp_path):
    model = seeded(Block)
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot write"):
        export_onnx(model, images(1), tmp_path / "file" / "model.onnx")
    with torch.no_grad():
        model.fc.bias[1] = torch.nan
    with pytest.raises(ExportError, match=r"fc\.bias"):
        export_onnx(model, images(1), tmp_path / "model.onnx")
    with pytest.raises(ExportError, match=r"stem\.0\.weight is on the meta device"):
        export_onnx(model.to("meta"), images(1), tmp_path / "model.onnx")
