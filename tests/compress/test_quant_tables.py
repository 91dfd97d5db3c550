"""Embedding tables in int8: what is stored, how near it is, what stays float, and the export."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tenfold.compress.quantize import Mode, Quantize
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.deploy import OnnxRunner, deploy_onnx
from tenfold.errors import RecipeError


class Reader(nn.Module):
    """(N, 6) of 50 tokens -> (N, 4); with `tied` a second layer answers by the table itself."""

    def __init__(self, tied: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(50, 16, padding_idx=0), nn.Embedding(6, 16)
        self.norm, self.head, self.tied = nn.LayerNorm(16), nn.Linear(16, 4), tied

    def forward(self, tokens: Tensor) -> Tensor:
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.places(places)).mean(1)
        return nn.functional.linear(x, self.words.weight) if self.tied else self.head(x)


def task_for(model: nn.Module) -> Task:
    tokens = torch.randint(0, 50, (40, 6), generator=torch.Generator().manual_seed(1))
    split = (tokens, torch.arange(40) % 4)
    return Task(model, train=split, validation=split)


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return Reader().eval()


@pytest.mark.parametrize("mode", Mode)
def test_every_row_is_within_half_a_step_and_a_reload_is_equal(model: nn.Module, mode: Mode) -> None:
    task = task_for(model)
    technique = Quantize(mode=mode)
    applied = technique.apply(model, task, Run())
    assert sorted(applied.resolved["embeddings"]) == ["places.weight", "words.weight"]
    state = applied.model.state_dict()
    table, scale = state["int8.words.weight.table"], state["int8.words.weight.table_scale"]
    assert table.dtype == torch.int8
    assert table.shape == (50, 16)
    assert scale.shape == (50,)
    away = (table.float() * scale[:, None] - model.words.weight.detach()).abs()
    assert bool((away <= 0.5 * scale[:, None] * (1 + 1e-5)).all())
    assert not table[0].any()  # the row of padding is zero
    assert all(value.dtype != torch.float32 or value.numel() < 300 for value in state.values())
    again = technique.rebuild(model, applied.resolved, task.example(2))
    again.load_state_dict(state)
    inputs = task.example(8)
    assert torch.equal(again(inputs), applied.model(inputs))
    with torch.no_grad():
        assert float((applied.model(inputs) - model(inputs)).abs().max()) < 0.05


@pytest.mark.parametrize("mode", Mode)
def test_the_export_stores_integers_and_answers_alike(model: nn.Module, mode: Mode, tmp_path) -> None:
    torch.manual_seed(0)
    wide = nn.Sequential(nn.Embedding(3000, 32), nn.Flatten(), nn.Linear(6 * 32, 4)).eval()
    task = task_for(wide)
    plain = deploy_onnx(wide, task.example(2), tmp_path / "plain.onnx")
    small = Quantize(mode=mode).apply(wide, task, Run()).model
    artifact = deploy_onnx(small, task.example(2), tmp_path / "small.onnx")
    assert artifact.size_bytes < 0.33 * plain.size_bytes
    inputs = task.example(8)
    torch.testing.assert_close(OnnxRunner(artifact.paths[0])(inputs), small(inputs), atol=2e-2, rtol=0)


def test_a_table_that_answers_too_is_stored_for_each_use(model: nn.Module) -> None:
    tied = Reader(tied=True).eval()
    applied = Quantize(mode=Mode.DYNAMIC).apply(tied, task_for(tied), Run())
    stored = {name: t.dtype for name, t in applied.model.state_dict().items() if tuple(t.shape) == (50, 16)}
    assert sorted(stored) == ["int8.linear.weight", "int8.words.weight.table"]
    assert set(stored.values()) == {torch.int8}


def test_tables_stay_float_where_that_is_asked_for(model: nn.Module) -> None:
    plain = Quantize(mode=Mode.DYNAMIC, embeddings=False).apply(model, task_for(model), Run())
    assert plain.resolved["embeddings"] == []
    assert plain.model.state_dict()["words.weight"].dtype == torch.float32


def test_another_network_is_refused_and_older_steps_are_read(model: nn.Module) -> None:
    task, technique = task_for(model), Quantize(mode=Mode.DYNAMIC)
    resolved = technique.apply(model, task, Run()).resolved
    with pytest.raises(RecipeError, match="no table other"):
        technique.rebuild(model, {**resolved, "embeddings": ["other"]}, task.example(2))
    older = {name: value for name, value in resolved.items() if name != "embeddings"}
    assert "words.weight" in technique.rebuild(model, older, task.example(2)).state_dict()
