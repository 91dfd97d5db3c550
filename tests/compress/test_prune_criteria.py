"""The criteria of structured pruning against their definitions, and pruning to a latency."""

from __future__ import annotations

import gc

import numpy as np
import pytest
import torch
from prune_networks import Residual, randomised
from torch import Tensor, nn
from torch.func import functional_call, jacrev

from tenfold.compress.prune import ChannelGraph, Criterion, Prune, importance
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.errors import NetworkError, RecipeError


class Pair(nn.Module):
    """(N, 4) -> (N, 3): six hidden units, each a row, a bias and a column."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.last = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x).relu())


@pytest.fixture
def pair() -> Task:
    torch.manual_seed(0)
    x = torch.randn(40, 4)
    return Task(Pair().eval(), (x, torch.arange(40) % 3), (x[:9], torch.arange(9) % 3))


def scores(task: Task, criterion: Criterion) -> np.ndarray:
    graph = ChannelGraph.of(task.model, task.zeros(2))
    return importance(graph, task.model, criterion, task, Run(), examples=40)["first"]


def test_fisher_adds_up_half_the_curvature_times_the_square(pair: Task) -> None:
    parameters = {name: p.detach() for name, p in pair.model.named_parameters()}
    x, y = pair.train.select(range(40))

    def losses(p: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(functional_call(pair.model, p, x), y, reduction="none")

    cost = {
        name: (0.5 * g.square().mean(0) * parameters[name].square()).numpy()
        for name, g in jacrev(losses)(parameters).items()
    }
    wanted = cost["first.weight"].sum(1) + cost["first.bias"] + cost["last.weight"].sum(0)
    np.testing.assert_allclose(scores(pair, Criterion.FISHER), wanted, rtol=1e-4)


def test_the_geometric_median_is_the_sum_of_distances(pair: Task) -> None:
    parts = [
        p.detach().numpy()
        for p in (pair.model.first.weight, pair.model.first.bias[:, None], pair.model.last.weight.T)
    ]
    vectors = np.concatenate(parts, axis=1)
    away = np.array([sum(np.linalg.norm(a - b) for b in vectors) for a in vectors])
    np.testing.assert_allclose(scores(pair, Criterion.GEOMETRIC_MEDIAN), away / away.mean(), rtol=1e-5)
    # A unit that lies on another is the first to go; the odd one out the last.
    with torch.no_grad():
        for p in (pair.model.first.weight, pair.model.first.bias):
            p[:5] = p[:1].clone()
        pair.model.last.weight[:, :5] = pair.model.last.weight[:, :1].clone()
    assert scores(pair, Criterion.GEOMETRIC_MEDIAN).argmax() == 5


def test_random_scores_follow_the_seed(pair: Task) -> None:
    assert (scores(pair, Criterion.RANDOM) == scores(pair, Criterion.RANDOM)).all()
    assert len(set(scores(pair, Criterion.RANDOM).tolist())) == 6


def weights(model: nn.Module) -> float:
    return float(sum(p.numel() for p in model.parameters()))


@pytest.fixture
def residual() -> Task:
    x = torch.randn(12, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Task(randomised(Residual()), (x, torch.arange(12) % 5), (x, torch.arange(12) % 5))


def test_a_latency_is_met_by_measuring(residual: Task) -> None:
    measured: list[nn.Module] = []

    def latency(model: nn.Module) -> float:
        measured.append(model)
        return weights(model) / 1000

    prune = Prune(target_latency=0.6, criterion=Criterion.MAGNITUDE)
    applied = prune.apply(residual.model, residual, Run(latency=latency))
    share = weights(applied.model) / weights(residual.model)
    assert 0.4 < share <= 0.6
    trials = applied.resolved["latency"]
    assert len(measured) == len(trials) + 1
    assert min(abs(t["ms"] - weights(applied.model) / 1000) for t in trials) < 1e-9
    rebuilt = prune.rebuild(residual.model, applied.resolved, residual.zeros())
    assert weights(rebuilt) == weights(applied.model)


def test_a_latency_that_cannot_be_met_or_measured_is_told(residual: Task) -> None:
    prune = Prune(target_latency=0.5, criterion=Criterion.MAGNITUDE)
    with pytest.raises(NetworkError, match="cannot reach 50% of 7 ms: one channel a layer still takes 7 ms"):
        prune.apply(residual.model, residual, Run(latency=lambda model: 7.0))
    with pytest.raises(RecipeError, match="needs a runtime to measure by"):
        prune.apply(residual.model, residual, Run())
    with pytest.raises(ValueError, match="not both"):
        Prune(target_macs=0.5, target_latency=0.5)
    with pytest.raises(ValueError, match="target_latency must be"):
        Prune(target_latency=1.5)


@pytest.mark.parametrize("criterion", list(Criterion))
def test_nothing_is_left_in_memory(pair: Task, criterion: Criterion) -> None:
    def parameters() -> int:
        gc.collect()
        return sum(type(thing) is nn.Parameter for thing in gc.get_objects())

    scores(pair, criterion)
    before = parameters()
    scores(pair, criterion)
    assert parameters() == before
