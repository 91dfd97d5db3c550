"""Runners, artefacts, verification and the memory of a fresh process."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from deploy_networks import Block, Pair, images, quantised, seeded
from torch import nn

from tenfold.compress import Run
from tenfold.compress.quantize import Mode, Nearest, QuantizeWeights
from tenfold.data import Task
from tenfold.deploy import (
    EagerRunner,
    OnnxRunner,
    Precision,
    deploy_eager,
    deploy_onnx,
    export_onnx,
    peak_memory,
    precision_of,
    verify,
)
from tenfold.deploy.memory import PROBE
from tenfold.errors import NetworkError, OutputError, VerificationError


@pytest.fixture(scope="module")
def block(tmp_path_factory):
    model = seeded(Block)
    return model, deploy_onnx(model, images(1), tmp_path_factory.mktemp("block") / "model.onnx")


def test_an_artifact_knows_its_files_and_runs(block):
    model, artifact = block
    assert artifact.size_bytes == artifact.paths[0].stat().st_size
    assert artifact.precision is Precision.FLOAT32
    assert torch.allclose(artifact.run(images(3)), model(images(3)), atol=1e-5)
    assert torch.allclose(artifact.session(threads=2)(images(3)), model(images(3)), atol=1e-5)


def test_precision_is_read_from_the_network():
    model = seeded(Block)
    assert precision_of(quantised(model, images())) is Precision.INT8_STATIC
    assert precision_of(quantised(model, images(), Mode.DYNAMIC)) is Precision.INT8_DYNAMIC
    split = (images(), torch.zeros(16, dtype=torch.long))
    codes = QuantizeWeights(bits=8, rounding=Nearest()).apply(model, Task(model, split, split), Run()).model
    assert precision_of(codes) is Precision.FLOAT32  # its weights are codes, what it computes is not


def test_eager_is_the_network_itself(tmp_path):
    model = seeded(Block)
    artifact = deploy_eager(model, tmp_path / "weights.safetensors")
    assert artifact.size_bytes > sum(4 * p.numel() for p in model.parameters())
    threads = torch.get_num_threads()  # another number of threads sums in another order
    assert verify(model, artifact.session(threads=threads), images(4)).max_error == 0
    EagerRunner(model, threads + 1)(images(1))
    assert torch.get_num_threads() == threads


def test_inputs_as_a_tuple_or_by_name(tmp_path):
    model = seeded(Pair)
    a, b = torch.randn(2, 3, 6), torch.randn(2, 3, 6)
    export_onnx(model, (a, b), tmp_path / "pair.onnx")
    runner = OnnxRunner(tmp_path / "pair.onnx")
    expected = model(a, b)["logits"]
    assert torch.allclose(runner((a, b)), expected, atol=1e-5)
    assert torch.allclose(runner({"b": b, "a": a}), expected, atol=1e-5)
    with pytest.raises(NetworkError, match="takes the inputs a, b"):
        runner({"c": a})
    with pytest.raises(NetworkError, match="cannot run"):
        runner((a[..., :2], b))


def test_files_that_are_missing_or_broken(tmp_path, block):
    with pytest.raises(NetworkError, match=r"cannot load .*none\.onnx"):
        OnnxRunner(tmp_path / "none.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(NetworkError, match="cannot load"):
        OnnxRunner(tmp_path / "broken.onnx")
    gone = deploy_eager(block[0], tmp_path / "weights.safetensors")
    gone.paths[0].unlink()
    with pytest.raises(OutputError, match="gone"):
        _ = gone.size_bytes


def test_verification_fails_where_it_should(block):
    model, artifact = block
    assert verify(model, artifact.session(), images(4)).ok
    other = seeded(Block)
    with torch.no_grad():
        other.fc.weight[0, 0] += 0.1
    result = verify(other, artifact.session(), images(4))
    assert not result.ok
    with pytest.raises(VerificationError, match="does not answer as PyTorch does"):
        result.require()
    assert not verify(model, lambda x: model(x) * torch.nan, images(4)).ok
    assert "shape" in verify(model, lambda x: model(x)[:, :2], images(4)).text
    # right for a batch, wrong for one example
    assert not verify(model, lambda x: model(x) if len(x) > 1 else -model(x), images(4)).ok


def test_verification_reports_the_original_beside_the_integers(tmp_path):
    model = seeded(Block)
    module = quantised(model, images())
    artifact = deploy_onnx(module, images(1), tmp_path / "int8.onnx")
    result = verify(module, artifact.session(), images(), original=model)
    assert result.ok
    assert result.agreement is not None
    assert "against the original" in result.text


class Wide(nn.Module):
    """A layer of 64 MB of weights."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4096, 4096)

    def forward(self, x):
        return self.fc(x)


def test_peak_memory_is_of_a_fresh_process_and_sees_the_weights(tmp_path, block):
    ballast = torch.ones(100_000_000)  # 400 MB here must not count there
    small = peak_memory(block[1], images(1))
    wide = deploy_onnx(seeded(Wide), torch.zeros(1, 4096), tmp_path / "wide.onnx")
    large = peak_memory(wide, torch.zeros(1, 4096))
    assert ballast.sum() > 0
    assert 10e6 < small < 300e6
    assert 50e6 < large - small < 400e6


def test_peak_memory_of_an_eager_network(tmp_path, block):
    eager = deploy_eager(block[0], tmp_path / "weights.safetensors")
    assert peak_memory(eager, images(1)) > 100e6  # PyTorch itself


def test_the_probe_says_why_it_failed(tmp_path, block):
    with pytest.raises(NetworkError, match="cannot be run in a fresh process"):
        peak_memory(block[1], torch.zeros(1, 7))
    done = subprocess.run([sys.executable, str(PROBE)], capture_output=True, text=True, check=False)
    assert done.returncode != 0
