"""Networks that read a mask: one of zeros, as tracing uses, leaves nothing to see and must not mislead a technique."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tenfold.compress import Run, Technique
from tenfold.compress.prune import Prune, Sparsify, TwoOfFour
from tenfold.compress.shorten import Shorten
from tenfold.cost import Device, call
from tenfold.data import Task


class Reader(nn.Module):
    """Tokens and a mask (N, 6) -> (N, 2): the mean over the tokens that are there, not a number where none is."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 8)) for _ in range(4))
        )
        self.head = nn.Linear(8, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        hidden = self.embed(ids)
        for layer in self.layers:
            hidden = hidden + layer(hidden)
        there = mask.unsqueeze(-1).to(hidden.dtype)
        return self.head((hidden * there).sum(1) / there.sum(1))


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    inputs = {
        "ids": torch.randint(11, (32, 6)),
        "mask": (torch.arange(6) < torch.randint(1, 7, (32, 1))).long(),
    }
    model = Reader().eval()
    return Task(model, (inputs, call(model, inputs).argmax(1)), (inputs, call(model, inputs).argmax(1)))


@pytest.mark.parametrize("technique", [Prune(0.5, examples=16), Shorten(0.5), Sparsify(TwoOfFour())])
def test_techniques_work_where_zeros_give_no_number(task: Task, technique: Technique) -> None:
    assert bool(call(task.model, task.zeros(2)).isnan().all())
    assert technique.preflight(task.model, task, Device()) == []
    made = technique.apply(task.model, task, Run(teacher=task.model)).model
    answers = call(made, task.example(8))
    assert bool(answers.isfinite().all())
    before, after = (sum(int((p != 0).sum()) for p in m.parameters()) for m in (task.model, made))
    assert after < 0.75 * before
