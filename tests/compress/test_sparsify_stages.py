"""Sparsity in stages that was stopped goes on in the stage where it stood."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from tenfold.compress import Recipe, Run, apply_recipe
from tenfold.compress import distill as distill_module
from tenfold.compress.distill import Distill
from tenfold.compress.prune import Free, Sparsify
from tenfold.compress.prune import sparsify as sparsify_module
from tenfold.compress.recipe import forget_checkpoints
from tenfold.data import Task
from tenfold.training import FitResult, fit

RECIPE = Recipe((Sparsify(Free(0.6), stages=2, epochs=8),))


@pytest.fixture
def task() -> Task:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(60, 4)
    return Task(model, (x, model(x).argmax(1)), (x[:8], model(x[:8]).argmax(1)))


@pytest.fixture
def healings(monkeypatch: pytest.MonkeyPatch) -> list[FitResult]:
    """What each stage trained, kept after every step; the arithmetic is stated, which timing would choose."""
    found: list[FitResult] = []

    def noted(*args: object, **kwargs: object) -> FitResult:
        found.append(fit(*args, **kwargs))  # type: ignore[arg-type]
        return found[-1]

    monkeypatch.setattr("tenfold.training.keeping.EVERY_SECONDS", -1.0)
    monkeypatch.setattr("tenfold.training.keeping.SHARE_OF_TIME", 1e9)
    monkeypatch.setattr(distill_module, "fit", noted)
    monkeypatch.setattr(
        sparsify_module, "Distill", partial(Distill, precision="fp32", teacher_precision="fp32", batch_size=8)
    )
    return found


def test_one_that_is_stopped_in_its_second_stage_goes_on_there(
    task: Task, healings: list[FitResult], tmp_path: Path
) -> None:
    whole, _ = apply_recipe(RECIPE, task, Run())
    steps = [result.steps for result in healings]
    healings.clear()

    def stop(share: float, text: str) -> None:
        if share > 0.8:
            raise KeyboardInterrupt

    file = tmp_path / "healing.safetensors"
    with pytest.raises(KeyboardInterrupt):
        apply_recipe(RECIPE, task, Run(checkpoint=file, progress=stop))
    assert len(list(tmp_path.glob("healing*"))) == 2
    healings.clear()
    again, _ = apply_recipe(RECIPE, task, Run(checkpoint=file))
    first, second = healings
    assert [first.steps, second.steps] == steps
    assert first.steps_before == steps[0]  # nothing of it was trained again …
    assert 0 < second.steps_before < steps[1]  # … and the second went on in its midst
    for name, value in whole.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    other = tmp_path / "healing-of-another-1-stage1.safetensors"  # recipe, which may be at work
    other.touch()
    forget_checkpoints(file, 1)
    assert list(tmp_path.glob("healing*")) == [other]
