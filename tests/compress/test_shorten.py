"""A shallower student from the teacher's layers, and what hidden layers teach it."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, Technique, apply_recipe, load, save
from tenfold.compress.distill import Distill, Matching
from tenfold.compress.prune import Criterion, Prune
from tenfold.compress.shorten import Shorten, evenly
from tenfold.cost import Device
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError
from tenfold.training import Ensemble, Transfer, attention_loss, relation_loss, stage_pairs


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


class Staged(nn.Module):
    """(N, 3, 8, 8) -> (N, 3), two stacks at two resolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Sequential(*(Block(6) for _ in range(5)))
        self.stem, self.down = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 2, 2)
        self.deep = nn.ModuleList(Block(6) for _ in range(4))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.down(self.wide(self.stem(x)))
        for block in self.deep:
            x = block(x)
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x.relu())


def hidden_pairs(task: Task, *steps: Technique, run: Run | None = None) -> list[list[str]]:
    made = apply_recipe(Recipe((*steps, Distill(epochs=1, hidden=Matching.AUTO))), task, run or Run())[1]
    return made[-1].resolved["hidden"]


def staged() -> Task:
    torch.manual_seed(0)
    x = torch.randn(32, 3, 8, 8)
    return Task(Staged().eval(), (x, torch.arange(32) % 3), (x[:6], torch.arange(6) % 3))


def test_hidden_layers_are_matched_with_those_that_they_come_from(task: Task) -> None:
    assert hidden_pairs(task, Shorten()) == [["layers.2", "layers.5"]]
    assert hidden_pairs(task, Shorten(0.7), Shorten()) == [["layers.1", "layers.5"]]
    # A list that is itself a module finishes after its members, and is the same in both.
    assert hidden_pairs(staged(), Shorten()) == [["wide", "wide"], ["deep.1", "deep.3"]]
    assert hidden_pairs(staged(), Shorten(stacks=("wide",))) == [["wide", "wide"], ["deep.3", "deep.3"]]


def test_blocks_that_prune_drops_keep_their_names_and_their_partners() -> None:
    drop = Prune(ratio=0.0, criterion=Criterion.MAGNITUDE, blocks=("wide.1", "deep.1"))
    assert hidden_pairs(staged(), drop) == [["wide", "wide"], ["deep.3", "deep.3"]]
    first = Prune(ratio=0.0, criterion=Criterion.MAGNITUDE, blocks=("deep.0",))
    assert hidden_pairs(staged(), first, Shorten(0.6, ("deep",)))[1] == ["deep.2", "deep.3"]


def test_numbers_in_lists_of_another_length_match_nothing_where_the_way_is_not_known(task: Task) -> None:
    short = Shorten().apply(task.model, task, Run()).model
    x = task.example(2)
    assert stage_pairs(short, task.model, x) == ()
    assert stage_pairs(task.model, task.model, x) == (("layers.5", "layers.5"),)
    other = Run(teacher=Encoder(8).eval())  # whose numbers say nothing about this network's
    assert hidden_pairs(task, Shorten(), run=other) == []


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
