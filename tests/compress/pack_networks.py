"""Saved and packed networks for the tests of packs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from quantize_networks import Residual, images, seeded, task_of
from torch import nn

from tenfold.compress import Recipe, Run, apply_recipe, save
from tenfold.compress.technique import Technique


def wide() -> nn.Module:
    return seeded(lambda: Residual(40))


def saved(folder: Path, *steps: Technique, build: Callable[[], nn.Module] = wide) -> Path:
    model = build()
    task = task_of(model, images())
    made, applied = apply_recipe(Recipe(steps), task, Run())
    return save(folder, made, applied, inputs=task.example(1))
