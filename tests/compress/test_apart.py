"""A network that lies on another device than its data: told by name, before any work. "meta" stands for a GPU."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import Tensor, nn

from tenfold.compress import Run, Technique
from tenfold.compress.factorize import Factorize
from tenfold.compress.prune import Prune, Saliency, Sparsify
from tenfold.compress.prune.blocks import residual_blocks
from tenfold.compress.prune.graph import ChannelGraph
from tenfold.compress.quantize import Quantize, QuantizeWeights
from tenfold.compress.quantize.capture import capture
from tenfold.compress.shorten import Shorten
from tenfold.compress.technique import apart, misplaced
from tenfold.cost import Device
from tenfold.data import Task
from tenfold.errors import TenfoldError

TOLD = r"lies on meta and its inputs on cpu: give it as model\.cpu\(\)"
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))


def network() -> nn.Module:
    """(N, 8) -> (N, 8)."""
    return nn.Sequential(*(nn.Linear(8, 8) for _ in range(4))).eval()


@pytest.fixture
def task() -> Task:
    return Task(network().to("meta"), (X, torch.arange(16) % 8))


@pytest.mark.parametrize(
    "technique",
    [Prune(), Factorize(), Shorten(), Quantize(), QuantizeWeights()],
    ids=lambda t: type(t).__name__,
)
def test_every_technique_that_runs_or_traces_it_says_so_beforehand(technique: Technique, task: Task) -> None:
    problems = technique.preflight(task.model, task, Device(runtime="onnxruntime"))
    assert any(re.search(TOLD, str(problem)) for problem in problems)


@pytest.mark.parametrize(
    "technique",
    [Prune(), Factorize(), Shorten(), Sparsify(saliency=Saliency.FISHER)],
    ids=lambda t: type(t).__name__,
)
def test_applying_says_so_too(technique: Technique, task: Task) -> None:
    with pytest.raises(TenfoldError, match=TOLD):
        technique.apply(task.model, task, Run())


def test_weights_that_go_at_random_are_drawn_wherever_the_network_lies(task: Task) -> None:
    technique = Sparsify(saliency=Saliency.RANDOM)
    chosen, _ = technique._chosen(task.model)
    drawn = technique._scores(task.model, chosen, task, Run())
    assert {scores.device.type for scores in drawn.values()} == {"meta"}


@pytest.mark.parametrize("trace", [ChannelGraph.of, residual_blocks, capture], ids=lambda f: f.__name__)
def test_tracing_says_so_instead_of_pytorch(trace: object, task: Task) -> None:
    assert callable(trace)
    with pytest.raises(TenfoldError, match=TOLD):
        trace(task.model, X[:2])


def test_only_a_network_that_fails_there_is_refused(task: Task) -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network().to("meta")

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x.to("meta"))

    moving = Moving()
    assert apart(moving, X)
    assert misplaced(moving, task) == []
    assert apart(network(), X) == apart(nn.ReLU(), X) == ""
    partly = copy.deepcopy(network())
    partly[1].to("meta")
    assert apart(partly, X) == ""
