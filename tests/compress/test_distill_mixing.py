"""Healing on images that are mixed with each other: when it is done, and that it goes on and repeats as it was."""

from __future__ import annotations

import pytest
import torch
from distill_networks import damaged_copy, taught_task
from torch import nn

from tenfold.compress import passes as passes_module
from tenfold.compress.distill import Distill
from tenfold.compress.technique import Applied, Run
from tenfold.cost import Device
from tenfold.data import Task
from tenfold.training import View


@pytest.fixture(scope="module")
def task() -> Task:
    return taught_task()


@pytest.fixture
def damaged(task: Task) -> nn.Module:
    return damaged_copy(task.model)


def test_images_are_mixed_where_there_are_steps_enough(
    task: Task, damaged: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenfold.training.faithfulness.TOLD", 1e9)  # whatever the teacher says of them
    monkeypatch.setattr(passes_module, "MIXED_STEPS", 60)
    monkeypatch.setattr(passes_module, "SMALL_BATCH", 8)
    few, many = (Distill(epochs=epochs).apply(damaged, task, Run()) for epochs in (3, 12))
    assert (few.resolved["mixing"], many.resolved["mixing"]) == (False, True)
    assert many.resolved["kept"] == "trained"
    stated = Distill(epochs=12, mixing=True, **stated_of(many)).apply(damaged, task, Run())
    plain = Distill(epochs=12, mixing=False, **stated_of(many)).apply(damaged, task, Run())
    weights = many.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in stated.model.state_dict().items())
    assert not torch.equal(weights["fc.weight"], plain.model.state_dict()["fc.weight"])
    # A recipe from before images were mixed states all that timing decides but that.
    older = Distill(epochs=12, **stated_of(many)).apply(damaged, task, Run())
    assert not older.resolved["mixing"]
    assert torch.equal(older.model.state_dict()["fc.weight"], plain.model.state_dict()["fc.weight"])
    monkeypatch.setattr("tenfold.training.faithfulness.TOLD", 0.0)
    assert not Distill(epochs=12).apply(damaged, task, Run()).resolved["mixing"]
    monkeypatch.setattr("tenfold.training.faithfulness.TOLD", 1e9)
    labels = Distill(epochs=12, alpha=1.0).apply(damaged, task, Run())
    assert not labels.resolved["mixing"]  # what is mixed has no label
    timed = Distill(seconds=600.0, epochs=12).apply(damaged, task, Run())
    assert (timed.resolved["mixing"], timed.resolved["steps"]) == (True, many.resolved["steps"])


def stated_of(applied: Applied) -> dict:
    """What timing decided."""
    views = tuple(View(view) for view in applied.resolved["views"])
    return {"views": views, **{k: applied.resolved[k] for k in ("precision", "teacher_precision")}}


def test_a_mixed_healing_that_was_stopped_goes_on_mixed(
    task: Task, damaged: nn.Module, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenfold.training.keeping.EVERY_SECONDS", -1.0)
    monkeypatch.setattr("tenfold.training.keeping.SHARE_OF_TIME", 1e9)
    monkeypatch.setattr("tenfold.training.faithfulness.TOLD", 1e9)
    monkeypatch.setattr(passes_module, "MIXED_STEPS", 40)
    monkeypatch.setattr(passes_module, "SMALL_BATCH", 8)
    whole = Distill(epochs=6).apply(damaged, task, Run())
    stated = stated_of(whole)
    assert whole.resolved["mixing"]
    path, calls = tmp_path / "healing.safetensors", 0

    def stopping(share: float, text: str) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt

    settings = {k: v for k, v in stated.items() if k != "views"}  # so that nothing says how it was shown
    with pytest.raises(KeyboardInterrupt):
        Distill(epochs=6, **settings).apply(damaged, task, Run(checkpoint=path, progress=stopping))
    monkeypatch.setattr(passes_module, "MIXED_STEPS", 10**9)  # a process that would not mix by itself
    resumed = Distill(epochs=6, **settings).apply(damaged, task, Run(checkpoint=path))
    assert resumed.resolved["mixing"]
    assert resumed.resolved["epochs_before"] > 0
    weights = whole.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in resumed.model.state_dict().items())


def test_only_images_can_be_mixed(task: Task) -> None:
    flat = Task(nn.Linear(4, 3), (torch.randn(30, 4), torch.arange(30) % 3))
    problems = Distill(mixing=True).preflight(flat.model, flat, Device())
    assert "mixing is for float images" in str(problems[0])
    assert not Distill(mixing=True).preflight(task.model, task, Device())
