"""What a search healed can be made again from its recipe, bit for bit, and a healing that was stopped goes on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import tenfold
from tenfold.compress import Recipe, apply_recipe
from tenfold.compress.technique import Run
from tenfold.cost import Device
from tenfold.data import fashion_mnist
from tenfold.models import CifarResNet
from tenfold.search import Budget
from tenfold.search.clock import Clock
from tenfold.search.finalist import Healed, cut, heal, healing_file
from tenfold.search.finalists import Next, Tried
from tenfold.search.job import Job
from tenfold.search.proposals import Proposal
from tenfold.search.rounds import begun
from tenfold.search.space import Plan
from tenfold.search.store import Store, identity_of

NARROW = Plan(keep=(("layer1.0.conv1", 0.5), ("layer2.0.conv1", 0.5)))


def proposal(plan: Plan) -> Proposal:
    return Proposal(plan, "fp32", 1, 1, 1.0, 1.0, 1.0, 1, 0.1, 0.1, 0.0)


@pytest.fixture(scope="module")
def task() -> tenfold.Task:
    torch.manual_seed(0)
    splits = fashion_mnist()
    network = CifarResNet(8, num_classes=10, in_channels=1)
    return tenfold.Task(network.eval(), train=splits.train.take(200), validation=splits.validation.take(50))


@pytest.fixture
def job(task: tenfold.Task, tmp_path: Path) -> Job:
    store = Store.open(tmp_path / "run", identity_of(task))
    return Job(task, Budget(), Device(), "latency", store, Clock(600.0), seed=3)


def quietly(fraction: float, text: str) -> None:
    """Progress that nobody reads."""


def healed(job: Job, name: str, plan: Plan, seconds: float) -> Healed:
    return healed_on(job, name, cut(job, proposal(plan), quietly), seconds)


def healed_on(job: Job, name: str, before: Healed, seconds: float) -> Healed:
    """Healed for so long, or for longer where a busy machine came to no step."""
    for longer in (1, 4, 16):
        found = heal(job, name, before, longer * seconds, quietly)
        if found.passes > before.passes:
            break
    return found


def same(a: nn.Module, b: nn.Module) -> list[str]:
    """The names of the tensors that differ."""
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    return [name for name in ours if not torch.equal(ours[name], theirs[name])]


def test_a_recipe_applied_makes_the_same_network_again(job: Job, task: tenfold.Task) -> None:
    """Though the search chose by timing, and knew answers of the teacher that it had asked for other finalists."""
    healed(job, "c1", NARROW, 1.5)
    second = healed(job, "c2", Plan(keep=NARROW.keep[:1]), 2.5)
    twice = healed_on(job, "c3", second, 1.5)
    for found in (second, twice):
        assert found.passes > 0
        recipe = Recipe(tuple(step.technique for step in found.steps), job.seed)
        model, _ = apply_recipe(recipe, task, Run(seed=recipe.seed, teacher=task.model))
        assert same(model, found.model) == []


def test_a_stopped_healing_is_chosen_again_and_goes_on(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenfold.training.keeping.EVERY_SECONDS", -1.0)
    monkeypatch.setattr("tenfold.training.keeping.SHARE_OF_TIME", 1e9)
    front = [proposal(Plan()), proposal(NARROW)]
    assert begun(job, "c1", []) is None
    job.store.finish_step("begun-c1", front[1].to_json())
    steps = 0

    def stop(fraction: float, text: str) -> None:
        nonlocal steps
        steps += text.startswith("epoch")
        if steps == 20:  # the pace is found in two trials of three steps
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heal(job, "c1", cut(job, front[1], quietly), 60.0, stop)
    assert begun(job, "c1", []) == Next(front[1])
    # What was healed before was being healed on, and must not begin again from the cut.
    tried = [Tried(front[1], 0.1, 0.2, False)]
    assert begun(job, "c1", tried) == Next(front[1], extend=True)
    assert healing_file(job, "c1").exists()
    resumed = healed(job, "c1", NARROW, 5.0)
    assert resumed.steps[-1].resolved["epochs_before"] > 0
