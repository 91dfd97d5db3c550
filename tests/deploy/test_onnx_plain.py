"""The networks of calibration written down as ONNX answer as they do in PyTorch."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from tenfold.cost import Device
from tenfold.cost.calibration_networks import CHAINS, NETWORKS, samples
from tenfold.deploy.calibration import onnx_prepare
from tenfold.deploy.onnx_plain import plain_onnx
from tenfold.deploy.runners import OnnxRunner

DRAWN = 60


@pytest.fixture(scope="module")
def drawn() -> dict:
    """One sample of each kind."""
    found = {}
    for sample in islice(samples(0, (2,), 5e7), DRAWN):
        found.setdefault(sample.kind, sample)
    return found


def test_every_kind_is_drawn(drawn):
    assert set(drawn) == {make.__name__ for make in (*CHAINS, *NETWORKS)}


@pytest.mark.parametrize("kind", sorted({make.__name__ for make in (*CHAINS, *NETWORKS)}))
def test_the_graph_answers_as_the_module(drawn, kind, tmp_path: Path):
    sample = drawn[kind]
    proto = plain_onnx(sample.module, sample.shape)
    assert proto is not None
    (tmp_path / "network.onnx").write_bytes(proto.SerializeToString())
    inputs = sample.inputs()
    with torch.no_grad():
        expected = sample.module(inputs)
    found = OnnxRunner(tmp_path / "network.onnx")(inputs)
    assert float((found - expected).abs().max()) <= 1e-4 * float(expected.abs().max())


def test_an_unknown_layer_is_left_to_the_exporter():
    assert plain_onnx(nn.Sequential(nn.Tanh()), (1, 4)) is None
    call = onnx_prepare(Device())(nn.Sequential(nn.Linear(4, 4), nn.Tanh()).eval(), torch.ones(1, 4))
    assert call().shape == (1, 4)
