"""Training recipes: everything that decides how a network is trained, as a YAML file or by the name of one that ships.

tenfold: 1
epochs: 60
optimizer: {type: Sgd, learning_rate: 0.4, weight_decay: 5.0e-4}
augmentation: {padding: 4, flip: true}
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml

from tenfold.coding import CodingError, decode_fields, encode_fields, short
from tenfold.errors import RecipeError
from tenfold.naming import nearest
from tenfold.training.augmentation import Augmentation
from tenfold.training.optimizers import OptimizerSettings, Sgd
from tenfold.yaml_files import parse_yaml, read_yaml

VERSION = 1


class Arithmetic(Enum):
    """What the forward and backward passes compute in; weights and the optimiser's state are always fp32."""

    AUTO = "auto"  # bf16 on a GPU; on a processor what a trial step finds faster
    FP32 = "fp32"
    BF16 = "bf16"


class Compiling(Enum):
    """Whether the network goes through torch.compile."""

    AUTO = "auto"  # on a GPU, where the rest of the run is long enough to pay for the minute that compiling takes
    ON = "on"
    OFF = "off"


@dataclass(frozen=True)
class TrainingRecipe:
    """How to train.

    `epochs`: passes over the data. `batch_size`: examples a step, an upper bound where the data is smaller.
    `warmup`: the share of the work in which the learning rate rises linearly to its peak; it falls along half a
    cosine to `floor` times the peak. `label_smoothing`: the share of a label spread over all classes (Szegedy et
    al., 2016). `average`: the decay, a step, of the average of the weights that is scored and stored (Polyak); null
    scores the last ones. `clip`: the largest norm of the gradient. `stochastic_depth`: the chance that the last
    residual branch is dropped for an image, rising linearly from the first (Huang et al., 2016). `half`: the
    weights are stored, and so scored, in fp16. Where a teacher is given, `teaching` is the share of the loss that
    comes from its answers to the same varied images, at `temperature` (Hinton et al., 2015; Beyer et al., 2022).
    """

    epochs: float = 60.0
    batch_size: int = 512
    optimizer: OptimizerSettings = field(default_factory=Sgd)
    warmup: float = 0.1
    floor: float = 0.0
    label_smoothing: float = 0.0
    augmentation: Augmentation = field(default_factory=Augmentation)
    average: float | None = None
    clip: float | None = None
    stochastic_depth: float = 0.0
    arithmetic: Arithmetic = Arithmetic.AUTO
    compile: Compiling = Compiling.AUTO
    half: bool = False
    teaching: float = 0.9
    temperature: float = 2.0

    def __post_init__(self) -> None:
        if not (0 < self.epochs < 1e6):
            raise ValueError(f"epochs must be above 0 and below a million, not {self.epochs}")
        if not 1 <= self.batch_size <= 1 << 20:
            raise ValueError(f"batch_size must lie between 1 and {1 << 20}, not {self.batch_size}")
        rate = self.optimizer.learning_rate
        if not (rate > 0 and math.isfinite(rate)):
            raise ValueError(f"optimizer: learning_rate must be above 0, not {rate}")
        for name in ("warmup", "label_smoothing", "stochastic_depth"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be at least 0 and below 1, not {getattr(self, name)}")
        if not 0.0 <= self.floor <= 1.0:
            raise ValueError(f"floor must lie between 0 and 1, not {self.floor}")
        if self.average is not None and not 0.0 < self.average < 1.0:
            raise ValueError(f"average must be a decay between 0 and 1, not {self.average}")
        if not 0.0 < self.teaching <= 1.0:
            raise ValueError(
                f"teaching must be a share of the loss above 0 and at most 1, not {self.teaching}"
            )
        if not (self.temperature > 0 and math.isfinite(self.temperature)):
            raise ValueError(f"temperature must be above 0, not {self.temperature}")
        if self.clip is not None and not self.clip > 0:
            raise ValueError(f"clip must be above 0, not {self.clip}")

    def to_dict(self) -> dict[str, Any]:
        """The recipe as plain data, as in the file."""
        return {"tenfold": VERSION, **encode_fields(self)}

    def to_yaml(self) -> str:
        """The text of the recipe's file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)


def training_recipe_from(values: Any) -> TrainingRecipe:
    """A training recipe from plain data; `RecipeError` where it is none."""
    if not isinstance(values, dict):
        raise CodingError((), "a training recipe is a mapping of settings, as epochs: 60")
    version = values.get("tenfold", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise CodingError(
            ("tenfold",), f"it has version {short(version)}; this Tenfold reads version {VERSION}"
        )
    settings = {key: value for key, value in values.items() if key != "tenfold"}
    return decode_fields(TrainingRecipe, settings, name="a training recipe")


def parse_training_recipe(text: str, source: str = "recipe") -> TrainingRecipe:
    """The training recipe in a YAML text; a `RecipeError` names the line."""
    return parse_yaml(text, training_recipe_from, source)


def training_recipe(spec: Path | str, *, epochs: float | None = None) -> TrainingRecipe:
    """The recipe of that name, or in that file; `epochs` overrides its own. A `RecipeError` names file and line."""
    known = training_recipe_names()
    if str(spec) in known:
        found = parse_training_recipe(
            (_shipped() / f"{spec}.yaml").read_text(encoding="utf-8"), f"recipe {spec}"
        )
    elif Path(spec).is_file() or Path(spec).suffix in (".yaml", ".yml"):
        found = read_yaml(spec, training_recipe_from)
    else:
        raise RecipeError(
            f"no recipe {str(spec)!r}{nearest(str(spec), known)}; give one of these or a YAML file"
        )
    if epochs is None:
        return found
    try:
        return replace(found, epochs=epochs)
    except ValueError as error:
        raise RecipeError(str(error)) from error


def training_recipe_names() -> list[str]:
    """The recipes that ship."""
    return sorted(
        entry.name.removesuffix(".yaml") for entry in _shipped().iterdir() if entry.name.endswith(".yaml")
    )


def _shipped() -> Any:
    return files("tenfold.training") / "recipes"
