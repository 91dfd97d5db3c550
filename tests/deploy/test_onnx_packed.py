"""Packed weights of few bits exported: codes in the file, and the network's own answers from it."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deploy_networks import Block, images, seeded
from onnx import TensorProto, numpy_helper
from torch import Tensor, nn

from tenfold.compress.quantize import (
    Nearest,
    PerChannel,
    PerGroup,
    PerTensor,
    QuantizeWeights,
    ZeroPoint,
    packed_weights,
)
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, export_onnx, verify
from tenfold.errors import TenfoldWarning

INTEGER, REAL = ZeroPoint.INTEGER, ZeroPoint.REAL


def exported(technique: QuantizeWeights, path: Path, codes: bool = True) -> nn.Module:
    model = seeded(Block)
    pairs = (images(16), np.arange(16) % 4)
    made = technique.apply(model, Task(model, pairs, pairs), Run()).model
    export_onnx(made, images(1), path, codes=codes)
    result = verify(made, OnnxRunner(path), images(7))
    assert result.ok
    assert result.max_error < 1e-5
    assert (
        not verify(model, OnnxRunner(path), images(7)).max_error < 1e-3
    )  # the float network answers otherwise
    return made


@pytest.mark.parametrize(
    "technique",
    [
        QuantizeWeights(4, PerChannel()),
        QuantizeWeights(3, PerGroup(4)),
        QuantizeWeights(4, PerGroup(3), INTEGER),
        QuantizeWeights(6, PerChannel(), INTEGER),
        QuantizeWeights(5, PerGroup(4)),
        QuantizeWeights(4, PerTensor(), rounding=Nearest()),
    ],
    ids=lambda t: f"{t.bits} {t.granularity} {t.zero_point.value}",
)
def test_codes_stay_codes_and_answer_as_the_network(technique: QuantizeWeights, tmp_path: Path) -> None:
    made = exported(technique, tmp_path / "model.onnx")
    stored = onnx.load(tmp_path / "model.onnx").graph.initializer
    wanted = TensorProto.UINT4 if technique.bits <= 4 else TensorProto.UINT8  # type: ignore[operator]
    weights = [tensor for tensor in stored if tensor.data_type == wanted and len(tensor.dims) > 1]
    numbers = sorted(int(np.prod(tensor.dims)) for tensor in weights)
    assert not set(numbers) < {weight.rows * weight.width for weight in packed_weights(made)}
    for tensor in weights:
        held = len(tensor.raw_data)
        assert held == -(-int(np.prod(tensor.dims)) // (2 if wanted == TensorProto.UINT4 else 1))
    floats = [t for t in stored if t.data_type == TensorProto.FLOAT and len(t.dims) == 4]
    assert not floats


def test_weights_become_floats_where_asked_or_where_there_is_no_form(tmp_path: Path) -> None:
    for technique, codes in (
        (QuantizeWeights(4, PerChannel()), False),
        (QuantizeWeights(4, PerGroup(4), REAL), True),
    ):
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", TenfoldWarning)
            made = exported(technique, tmp_path / "model.onnx", codes)
        texts = [str(one.message) for one in told if one.category is TenfoldWarning]
        assert [text.startswith("5 of 5 packed weights have real zero points") for text in texts] == [
            True
        ] * codes
        stored = [
            numpy_helper.to_array(tensor) for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer
        ]
        weights = [array for array in stored if array.dtype == np.float32 and array.ndim > 1]
        assert len(weights) == len(packed_weights(made)) == 5


class Products(nn.Module):
    """Linear layers over vectors and over sequences, with and without bias, of widths that groups do not divide."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(40, 48), nn.Linear(48, 24, bias=False)
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.second(self.first(x).relu()).mean(1))


@pytest.mark.parametrize("zero_point", [ZeroPoint.SYMMETRIC, INTEGER])
def test_products_read_codes_of_four_bits_themselves(zero_point: ZeroPoint, tmp_path: Path) -> None:
    model, x = seeded(Products), torch.randn(8, 6, 40, generator=torch.Generator().manual_seed(0))
    pairs = (x, torch.arange(8) % 5)
    technique = QuantizeWeights(4, PerGroup(16), zero_point, bias_correction=False)
    made = technique.apply(model, Task(model, pairs, pairs), Run()).model
    export_onnx(made, x[:1], tmp_path / "model.onnx")
    assert verify(made, OnnxRunner(tmp_path / "model.onnx"), x).max_error < 1e-5
    proto = onnx.load(tmp_path / "model.onnx")
    assert [node.op_type for node in proto.graph.node].count("MatMulNBits") == 3
    export_onnx(made, x[:1], tmp_path / "floats.onnx", codes=False)
    assert (tmp_path / "model.onnx").stat().st_size < 0.5 * (tmp_path / "floats.onnx").stat().st_size
