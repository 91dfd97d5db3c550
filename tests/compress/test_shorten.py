"""A shallower student from the teacher's layers, and what hidden layers teach it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, apply_recipe, load, save
from tenfold.compress.distill import Distill
from tenfold.compress.shorten import Shorten, evenly
from tenfold.cost import Device
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError
from tenfold.training import Ensemble, Transfer, attention_loss, relation_loss


class Encoder(nn.Module):
    """(N, 5, 8) -> (N, 3)."""

    def __init__(self, depth: int = 6) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True) for _ in range(depth)
        )
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean(1))


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    model = Encoder().eval()
    x = torch.randn(48, 5, 8)
    return Task(model, (x, model(x).argmax(1)), (x[:16], model(x[:16]).argmax(1)))


def test_the_student_has_the_teachers_layers_and_loads_equal(task: Task, tmp_path: Path) -> None:
    assert Shorten().preflight(task.model, task, Device()) == []
    made, steps = apply_recipe(Recipe((Shorten(),)), task, Run())
    assert steps[0].resolved == {"gone": ["layers.1", "layers.2", "layers.4"]}
    assert len(made.layers) == 3
    assert len(task.model.layers) == 6
    for place, origin in enumerate((0, 3, 5)):
        assert torch.equal(made.layers[place].linear1.weight, task.model.layers[origin].linear1.weight)
    save(tmp_path / "a", made, steps, inputs=task.example(1))
    loaded = load(tmp_path / "a", base=Encoder)
    with torch.no_grad():
        assert torch.equal(loaded(task.example(4)), made(task.example(4)))


def test_what_stays_is_spread_evenly() -> None:
    assert evenly(12, 6) == [0, 2, 4, 7, 9, 11]  # DistilBERT's choice for BERT
    for count, number in itertools.product(range(2, 13), range(1, 13)):
        if number <= count:
            places = evenly(count, number)
            assert len(set(places)) == number
            assert places[0] == 0
            assert number == 1 or places[-1] == count - 1


@pytest.mark.parametrize("transfer", list(Transfer))
def test_hidden_layers_teach_in_every_way(task: Task, transfer: Transfer) -> None:
    short = Shorten().apply(task.model, task, Run()).model
    distill = Distill(epochs=3, hidden=(("layers.2", "layers.5"),), transfer=transfer)
    resolved = distill.apply(short, task, Run(teacher=task.model)).resolved
    assert resolved["steps"] > 0
    assert min(resolved["held_out_losses"].values()) <= resolved["held_out_losses"]["unchanged"]


def test_the_losses_are_their_definitions() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(4, 6, 3, 2, generator=generator), torch.randn(4, 9, 3, 2, generator=generator)
    wanted, pairs = 0.0, []
    for x, y in zip(a, b, strict=True):
        p, q = x.square().sum(0).flatten(), y.square().sum(0).flatten()
        wanted += float((p / p.norm() - q / q.norm()).square().sum()) / 4
    assert attention_loss(a, b).item() == pytest.approx(wanted, rel=1e-5)
    assert attention_loss(a, -3 * a).item() == pytest.approx(0, abs=1e-10)
    distances = [
        torch.stack([(f[i] - f[j]).norm() for i, j in itertools.combinations(range(4), 2)]) for f in (a, b)
    ]
    pairs = [d / d.mean() for d in distances]
    gaps = (pairs[0] - pairs[1]).abs()
    huber = torch.where(gaps < 1, 0.5 * gaps**2, gaps - 0.5).mean()
    assert relation_loss(a, b).item() == pytest.approx(huber.item(), rel=1e-5)
    assert relation_loss(a, 5 * a + 2).item() == pytest.approx(0, abs=1e-10)


def test_an_ensemble_teaches_its_mean_and_labels_are_not_needed(task: Task) -> None:
    torch.manual_seed(1)
    other = Encoder().eval()
    both = Ensemble([task.model, other]).eval()
    x = task.example(4)
    with torch.no_grad():
        torch.testing.assert_close(both(x), (task.model(x) + other(x)) / 2)
    unlabelled = Task(task.model, (task.train.select(range(48))[0], torch.full((48,), 99)), task.validation)
    short = Shorten().apply(task.model, task, Run()).model
    resolved = Distill(epochs=2, alpha=0.0).apply(short, unlabelled, Run(teacher=both)).resolved
    assert resolved["steps"] > 0
    with pytest.raises(NetworkError, match="at least one"):
        Ensemble([])
    with pytest.raises(NetworkError, match="different shapes"):
        Ensemble([nn.Linear(2, 3), nn.Linear(2, 4)])(torch.ones(1, 2))


def test_what_is_refused(task: Task) -> None:
    def told(technique: Shorten, model: nn.Module) -> str:
        return "; ".join(map(str, technique.preflight(model, task, Device())))

    assert "did you mean 'layers'" in told(Shorten(stacks=("layer",)), task.model)
    assert "no stack of equal layers" in told(Shorten(), nn.Linear(8, 3))
    with pytest.raises(ValueError, match="keep must be"):
        Shorten(1.0)
    for resolved in ({}, {"gone": ["layers.9"]}, {"gone": ["head"]}, {"gone": 3}):
        with pytest.raises(RecipeError):
            Shorten().rebuild(task.model, resolved, task.zeros())
