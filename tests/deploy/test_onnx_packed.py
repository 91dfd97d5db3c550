"""Packed weights of few bits exported: floats in the file, and the network's own answers from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from deploy_networks import Block, images, seeded

from tenfold.compress.quantize import PerChannel, PerGroup, QuantizeWeights, packed_weights
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, export_onnx, verify


@pytest.mark.parametrize("technique", [QuantizeWeights(6, PerChannel()), QuantizeWeights(3, PerGroup(4))])
def test_weights_of_few_bits_become_floats_that_answer_as_the_network(
    technique: QuantizeWeights, tmp_path: Path
) -> None:
    model, path = seeded(Block), tmp_path / "model.onnx"
    pairs = (images(16), np.arange(16) % 4)
    made = technique.apply(model, Task(model, pairs, pairs), Run()).model
    export_onnx(made, images(1), path)
    result = verify(made, OnnxRunner(path), images(7))
    assert result.ok
    assert result.max_error < 1e-5
    assert (
        not verify(model, OnnxRunner(path), images(7)).max_error < 1e-3
    )  # the float network answers otherwise
    stored = [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]
    weights = [array for array in stored if array.dtype == np.float32 and array.ndim > 1]
    assert len(weights) == len(packed_weights(made)) == 5
    for array in weights:
        rows = array.reshape(len(array), -1) if array.ndim == 4 else array.T
        most = 2**technique.bits if isinstance(technique.granularity, PerChannel) else rows.shape[1]
        assert all(len(np.unique(row)) <= most for row in rows)
