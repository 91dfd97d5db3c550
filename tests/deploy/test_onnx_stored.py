"""Weights of fewer bits in ONNX files: bytes in the file, int8 in the kernels, and the network's own answers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from deploy_networks import Block, images, seeded
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import Tensor, nn

from tenfold.compress.quantize import Average, Mode, Quantize, stored_weights
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, export_onnx, verify
from tenfold.deploy.onnx_stored import DOMAIN


class Perceptron(nn.Module):
    """(N, 19) -> (N, 21), by a product that lies by its inputs too."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(19, 307)
        self.matrix = nn.Parameter(0.1 * torch.randn(307, 270))
        self.last = nn.Linear(270, 21)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(torch.relu(self.first(x)) @ self.matrix))


def made(technique: Quantize, model: nn.Module, inputs: Tensor) -> nn.Module:
    pairs = (inputs, np.arange(len(inputs)) % 4)
    return technique.apply(model, Task(model, pairs, pairs), Run()).model


def ops_run(path: Path, folder: Path) -> Counter[str]:
    """The operators that ONNX Runtime makes of a file, in its own names."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node)


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 7])
def test_the_file_holds_bytes_and_computes_with_integers(bits: int, tmp_path: Path) -> None:
    model, inputs = seeded(Block, 300), images(16)
    narrow = made(Quantize(stored_bits=bits, weight_bits=8), model, inputs)
    export_onnx(narrow, inputs[:1], tmp_path / "narrow.onnx")
    export_onnx(made(Quantize(weight_bits=8), model, inputs), inputs[:1], tmp_path / "plain.onnx")
    assert verify(narrow, OnnxRunner(tmp_path / "narrow.onnx"), images(7)).ok
    # What runs is what runs of plain INT8: everything else was computed when the file was loaded.
    assert ops_run(tmp_path / "narrow.onnx", tmp_path) == ops_run(tmp_path / "plain.onnx", tmp_path)
    proto = onnx.load(tmp_path / "narrow.onnx")
    onnx.checker.check_model(proto)
    whole = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.INT8 and len(t.dims) > 1]
    assert all(np.prod(t.dims) < 4000 for t in whole)  # of which the call would take more than it spares
    assert any(node.domain == DOMAIN for node in proto.graph.node)
    plain = onnx.load(tmp_path / "plain.onnx")  # whatever reads that reads this
    assert proto.ir_version == plain.ir_version
    assert list(proto.opset_import)[:1] == list(plain.opset_import)
    fours = {
        onnx.TensorProto.INT4,
        onnx.TensorProto.UINT4,
    }  # which ONNX Runtime cannot cast before version 1.23
    assert fours.isdisjoint(t.data_type for t in proto.graph.initializer)
    saved = (tmp_path / "plain.onnx").stat().st_size - (tmp_path / "narrow.onnx").stat().st_size
    assert saved > 0


@pytest.mark.parametrize(("width", "bits"), [(5, 4), (24, Average(5.0))])
def test_a_file_is_never_larger_for_fewer_bits(width: int, bits: int | Average, tmp_path: Path) -> None:
    model, inputs = seeded(Block, width), images(16)
    narrow = made(Quantize(stored_bits=bits, weight_bits=8), model, inputs)
    assert stored_weights(narrow)
    export_onnx(narrow, inputs[:1], tmp_path / "narrow.onnx")
    export_onnx(made(Quantize(weight_bits=8), model, inputs), inputs[:1], tmp_path / "plain.onnx")
    plain = (tmp_path / "plain.onnx").stat().st_size
    assert (tmp_path / "narrow.onnx").stat().st_size <= plain
    assert verify(narrow, OnnxRunner(tmp_path / "narrow.onnx"), images(7)).ok


@pytest.mark.parametrize("bits", [3, 4, 6, Average(5.0, (3, 4, 5, 6))])
@pytest.mark.parametrize("mode", [Mode.STATIC, Mode.DYNAMIC])
def test_what_the_file_unpacks_is_what_the_network_holds(
    bits: int | Average, mode: Mode, tmp_path: Path
) -> None:
    """By the interpreter of the ONNX project, of shapes that fill no bytes and of a matrix by inputs."""
    torch.manual_seed(0)
    network = made(Quantize(mode, stored_bits=bits), Perceptron().eval(), torch.randn(32, 19))
    path = tmp_path / "model.onnx"
    export_onnx(network, torch.randn(1, 19), path)
    assert verify(network, OnnxRunner(path), torch.randn(7, 19)).ok
    proto = onnx.load(path)
    calls = [node for node in proto.graph.node if node.domain == DOMAIN]
    wanted = [weight.values().numpy() for _, weight in stored_weights(network)]
    assert len(calls) == len(wanted) == 3
    constants = {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}
    functions = [ReferenceEvaluator(f) for f in proto.functions]
    by_name = {f.name: e for f, e in zip(proto.functions, functions, strict=True)}
    for node in calls:
        function = next(f for f in proto.functions if f.name == node.op_type)
        feeds = {inner: constants[outer] for inner, outer in zip(function.input, node.input, strict=True)}
        (found,) = by_name[node.op_type].run(None, feeds, attributes={})
        assert any(np.array_equal(found, w) or np.array_equal(found, w.T) for w in wanted)


def test_equal_weights_are_in_the_file_once(tmp_path: Path) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(32, 32)
    model = nn.Sequential(
        nn.Linear(16, 32), nn.ReLU(), layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(32, 40)
    ).eval()
    network = made(Quantize(stored_bits=4), model, torch.randn(32, 16))
    export_onnx(network, torch.randn(1, 16), tmp_path / "model.onnx")
    proto = onnx.load(tmp_path / "model.onnx")
    assert len([node for node in proto.graph.node if node.domain == DOMAIN]) == 3
    assert verify(network, OnnxRunner(tmp_path / "model.onnx"), torch.randn(7, 16)).ok
