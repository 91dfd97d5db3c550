"""Networks of the mobile family, pruned and exported: squeezes, hard activations and padding as TensorFlow does it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tenfold.compress.prune import Criterion, Prune
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, export_onnx, verify
from tenfold.models import create


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "efficientnet_lite0"])
def test_half_of_a_network_goes_and_the_rest_is_exported(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = create(name, num_classes=10, resolution=32, depth=0.34).eval()
    with torch.no_grad():
        for key, value in model.state_dict().items():
            if key.endswith("running_var"):
                value.uniform_(0.5, 1.5)
    images, labels = torch.randn(2, 3, 32, 32), torch.zeros(2, dtype=torch.long)
    task = Task(model, train=(images, labels), validation=(images, labels))
    prune = Prune(ratio=0.5, residual=0.5, criterion=Criterion.MAGNITUDE)
    small = prune.apply(model, task, Run()).model
    before, after = (sum(p.numel() for p in network.parameters()) for network in (model, small))
    assert after < 0.4 * before
    export_onnx(small, images, tmp_path / "small.onnx")
    verify(small, OnnxRunner(tmp_path / "small.onnx"), images).require()
