"""Quantisation of weights that several layers share: rounded once, stored once, and the same after a reload."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from quantize_networks import task_of
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, Technique, apply_recipe, load, save
from tenfold.compress.quantize import (
    Average,
    Learned,
    Mode,
    Nearest,
    PerChannel,
    PerGroup,
    Quantize,
    QuantizeWeights,
    packed_weights,
)
from tenfold.compress.share import Tie
from tenfold.deploy import deploy_onnx

DEPTH, WIDTH = 5, 48


class Stack(nn.Module):
    """(N, 16) -> (N, 4): five equal layers between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(16, WIDTH)
        self.layers = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, WIDTH)) for _ in range(DEPTH)
        )
        self.last = nn.Linear(WIDTH, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = x + layer(x).relu()
        return self.last(x)


def made() -> Stack:
    torch.manual_seed(0)
    return Stack().eval()


def examples(number: int = 64) -> Tensor:
    return torch.randn(number, 16, generator=torch.Generator().manual_seed(1))


def size(folder: Path) -> int:
    return (folder / "weights.safetensors").stat().st_size


@pytest.mark.parametrize(
    ("technique", "bits", "decibels"),
    [
        (Quantize(), 8, 25),
        (Quantize(epochs=2), 8, 25),
        (Quantize(bias_correction=False), 8, 25),
        (Quantize(Mode.DYNAMIC), 8, 25),
        (QuantizeWeights(4), 4, 15),
        (QuantizeWeights(4, PerChannel(), rounding=Nearest(), bias_correction=False), 4, 12),
        (QuantizeWeights(4, PerGroup(16), equalize=True, epochs=2), 4, 15),
        (QuantizeWeights(4, rounding=Learned(steps=5)), 4, 15),
        (QuantizeWeights(Average(4)), 4, 15),
    ],
    ids=str,
)
def test_a_shared_weight_is_quantised_and_stored_once(
    technique: Technique, bits: int, decibels: float, tmp_path: Path
) -> None:
    x = examples()
    task = task_of(made(), x)
    apart, apart_steps = apply_recipe(Recipe((technique,)), task, Run())
    model, steps = apply_recipe(Recipe((Tie(), technique)), task, Run())
    save(tmp_path / "apart", apart, apart_steps, inputs=x[:2])
    save(tmp_path / "tied", model, steps, inputs=x[:2])
    saved = (DEPTH - 1) * WIDTH * WIDTH * bits // 8
    assert size(tmp_path / "tied") < size(tmp_path / "apart") - saved
    if isinstance(technique, QuantizeWeights):
        assert [(w.rows, w.width) for w in packed_weights(model)] == [(WIDTH, 16), (WIDTH, WIDTH), (4, WIDTH)]
    tied = Tie().apply(task.model, task, Run()).model
    loaded = load(tmp_path / "tied", base=made)
    with torch.no_grad():
        wanted, answers = tied(x), model(x)
        assert torch.equal(loaded(x), answers)
    noise = (answers - wanted).square().sum() / wanted.square().sum()
    assert float(-10 * noise.log10()) > decibels
    artifact = deploy_onnx(model, x[:2], tmp_path / "tied.onnx")
    torch.testing.assert_close(torch.as_tensor(artifact.run(x)), answers, rtol=1e-4, atol=1e-4)


def test_the_scale_of_a_shared_weight_serves_the_biases_of_all_its_layers() -> None:
    x = examples()
    model = made()
    with torch.no_grad():
        model.layers[3][1].bias += 40.0
        model.layers[3][0].weight.mul_(1e-4)
        model.layers[3][0].bias.mul_(1e-4)
    task = task_of(model, x)
    tied = Tie().apply(model, task, Run()).model
    quantised = Quantize(bias_correction=False).apply(tied, task, Run()).model
    scales = {name for name, _ in quantised.named_buffers() if name.endswith("weight_scale")}
    assert len(scales) == 3
    for name, bias in quantised.named_buffers():
        if name.endswith(".bias"):
            restored = bias * quantised.get_buffer(f"{name}_scale")
            index = name.split(".")[2] if "layers" in name else None
            if index is not None:
                wanted = tied.get_submodule(f"layers.{index}.1").bias
                torch.testing.assert_close(restored, wanted.detach(), rtol=1e-2, atol=1e-2)
