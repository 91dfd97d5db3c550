"""Finding a rule of scaling by training: which of depth, width and resolution best spends a given growth of cost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from tenfold.data import Splits
from tenfold.data.resizing import resized
from tenfold.files import write_json
from tenfold.models.scaling import FEWEST_POINTS, RuleSearch, Scaled, search_rule
from tenfold.training.loop import Progress
from tenfold.training.outputs import fingerprint
from tenfold.training.recipes import TrainingRecipe
from tenfold.training.trainer import train


def find_rule(
    base: str,
    data: Splits,
    recipe: TrainingRecipe,
    *,
    points: int = FEWEST_POINTS,
    growth: float = 2.0,
    tolerance: float = 0.1,
    step: float = 0.1,
    device: str | torch.device = "cpu",
    seed: int = 0,
    folder: Path | str | None = None,
    progress: Progress = lambda fraction, text: None,
    **chosen: Any,
) -> RuleSearch:
    """α, β and γ for the network `base` on these data by grid search (Tan and Le, 2019, section 3.3).

    Each of at least 12 networks that cost `growth` times what `base` does, within `tolerance`, is trained by the
    recipe on images of its own resolution; the score is its accuracy on the validation examples, so that differences
    under the width of that accuracy's interval say nothing. `chosen` are options of `create`, as the classes. With
    `folder`, points that are there already are not trained again. Raises `NetworkError` before anything is trained
    where the grid holds too few points, `DataError` where the data are no images in memory.
    """
    resized(Splits(data.train.take(1), data.validation.take(1), None, data.classes), 8)
    trained = 0

    def evaluate(scaled: Scaled) -> float:
        nonlocal trained
        progress(trained / points, f"point {trained + 1} of {points}: {named(scaled)}")
        trained += 1
        return trained_score(scaled, data, recipe, device=device, seed=seed, folder=folder)

    return search_rule(base, evaluate, points=points, growth=growth, tolerance=tolerance, step=step, **chosen)


def trained_score(
    scaled: Scaled,
    data: Splits,
    recipe: TrainingRecipe,
    *,
    device: str | torch.device = "cpu",
    seed: int = 0,
    folder: Path | str | None = None,
) -> float:
    """Accuracy on the validation examples after training by the recipe; read from `folder` where it is there."""
    kept = None if folder is None else Path(folder) / f"{named(scaled)}-{seed}.json"
    # A point that was trained otherwise, or on other data, is no answer.
    asked = {
        "recipe": recipe.to_dict(),
        "options": json.loads(json.dumps(scaled.chosen)),
        "data": fingerprint(torch.nn.Identity(), data.train),
    }
    if kept is not None and kept.is_file():
        found = json.loads(kept.read_text(encoding="utf-8"))
        if all(found.get(key) == value for key, value in asked.items()):
            return float(found["validation"]["value"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = scaled.create()
    result = train(
        network, resized(data, scaled.resolution), recipe, name=named(scaled), device=device, seed=seed
    )
    if kept is not None:
        scores = {"validation": result.validation.to_json()}
        if result.test is not None:
            scores["test"] = result.test.to_json()
        write_json(kept, asked | scores | {"epochs": result.epochs, "seconds": result.seconds})
    return result.validation.value


def named(scaled: Scaled) -> str:
    """The network in a word: its base, depth, width and resolution."""
    return f"{scaled.base}-d{scaled.depth:.3f}-w{scaled.width:.3f}-r{scaled.resolution}"
