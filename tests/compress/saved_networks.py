"""A changed network saved to a folder, for the tests of saved networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from fake_techniques import Narrow, Round, Small, task
from torch import nn

from tenfold.compress import Recipe, Run, apply_recipe, save

X = torch.linspace(-2, 2, 30).view(5, 6)


def shrunk(folder: Path, **options: Any) -> nn.Module:
    model, steps = apply_recipe(Recipe((Narrow(0.5), Round())), task(Small(hidden=16)), Run())
    save(folder, model, steps, inputs=X[:1], **options)
    return model


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "structure.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
