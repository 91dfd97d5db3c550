"""The kernels that are predicted of ONNX Runtime, held against those that its own profiler tells of."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
import torch
from torch import nn

from tenfold.cost import Device, OperatorCost, profile
from tenfold.cost.calibration_networks import samples
from tenfold.cost.cpu import vector_lanes
from tenfold.cost.fused_kernels import fused_kernels
from tenfold.cost.record import DEPTHWISE
from tenfold.cost.workload import eager_kernels
from tenfold.deploy.calibration import onnx_prepare
from tenfold.deploy.node_times import operator_of

COLOURS = 4  # at most so many channels of an image are not filled up
KINDS = (
    "residual_network",
    "mobile_network",
    "transformer",
    "windowed_transformer",
    "mixer",
    "modern_network",
)


@pytest.fixture(scope="module")
def drawn() -> dict:
    """One sample of each kind."""
    found = {}
    for sample in islice(samples(0, (2,), 5e7), 45):
        found.setdefault(sample.kind, sample)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_the_predicted_kernels_are_those_that_run(drawn, kind):
    sample = drawn[kind]
    inputs = sample.inputs()
    times = onnx_prepare(Device())(sample.module, inputs).times(())
    assert times is not None
    assert len(times.work) == len(times.operators)
    assert min(times.work) >= 0
    real = eager_kernels(times.operators)
    operators = profile(sample.module, inputs).operators
    predicted = fused_kernels(operators, vector_lanes())
    counted, done = (sum(kernel.macs for kernel in kernels) for kernels in (predicted, real))
    assert 0.98 * counted <= done <= 1.02 * sum(map(filled_up, operators))
    families, wanted = (Counter(kernel.family for kernel in kernels) for kernels in (predicted, real))
    differing = sum((families - wanted).values()) + sum((wanted - families).values())
    assert differing <= 0.15 * len(real), (families, wanted)
    moved, really = (sum(kernel.activation_bytes for kernel in kernels) for kernels in (predicted, real))
    assert moved == pytest.approx(really, rel=0.15)


def filled_up(operator: OperatorCost) -> int:
    """Multiply-adds where channels fill vectors: more than are counted, where a vector is wider than 8 numbers."""
    if operator.op != "convolution":
        return operator.macs
    into, out = operator.input_shapes[0][1], operator.output_shape[1]
    share = filled(out) / out
    if operator.kind != DEPTHWISE and into > COLOURS:
        share *= filled(into) / into
    return round(operator.macs * share)


def filled(channels: int) -> int:
    return -(-channels // vector_lanes()) * vector_lanes()


def test_a_node_becomes_an_operator():
    node = {
        "op_name": "Conv", "input_type_shape": [{"float": [1, 32, 8, 8]}, {"float": [32, 1, 3, 3]}],
        "output_type_shape": [{"float": [1, 32, 8, 8]}], "parameter_size": "1152", "activation_size": "8192",
        "output_size": "8192", "node_index": "3",
    }  # fmt: skip
    operator = operator_of(node)
    assert operator is not None
    assert (operator.op, operator.kind, operator.macs) == ("convolution", "depthwise", 32 * 64 * 9)
    assert (operator.bytes_read, operator.bytes_written) == (9344, 8192)
    assert operator_of({**node, "op_name": "Reshape"}) is None
    packed = operator_of({**node, "op_name": "Gemm", "input_type_shape": [{"float": [4, 10]}],
                          "output_type_shape": [{"float": [4, 20]}], "parameter_size": "80"})  # fmt: skip
    assert packed is not None
    assert (packed.macs, packed.weight_bytes) == (800, 80 + 800)


def test_a_session_that_was_profiled_answers_as_before():
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    x = torch.randn(2, 8)
    call = onnx_prepare(Device())(module, x)
    torch.testing.assert_close(call(), module(x).detach(), rtol=1e-4, atol=1e-5)
