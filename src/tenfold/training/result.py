"""What a training run found, as the JSON file that it leaves behind."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch

from tenfold.cost import Interval, environment
from tenfold.training.recipes import TrainingRecipe


@dataclass(frozen=True)
class CurvePoint:
    """The state of a run after `epoch` passes: mean training `loss` since the point before, validation `accuracy`."""

    epoch: float
    loss: float
    accuracy: float
    learning_rate: float
    seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """`validation` and `test` are shares of right answers with 95% intervals (Wilson); the test is scored once.

    `seconds` is the whole run with its evaluations, over all of its sessions; `images_per_second` the median rate of
    training alone, once steps have settled; `taught` whether a teacher was
    learnt from. `complete` is False where time ran out before the recipe's last epoch.
    """

    network: str
    parameters: int
    recipe: TrainingRecipe
    seed: int
    examples: int
    batch_size: int
    steps: int
    epochs: float
    complete: bool
    seconds: float
    images_per_second: float | None
    device: str
    precision: str
    compiled: bool
    captured: bool
    taught: bool
    curve: tuple[CurvePoint, ...]
    validation: Interval
    test: Interval | None

    def to_json(self) -> dict[str, Any]:
        """The result with versions and machine, as plain JSON."""
        return {
            **asdict(self),
            "recipe": self.recipe.to_dict(),
            "curve": [asdict(point) for point in self.curve],
            "environment": environment(),
        }

    def summary(self) -> str:
        """The result in a line."""
        scores = [f"validation {_percent(self.validation)}"]
        if self.test is not None:
            scores.append(f"test {_percent(self.test)}")
        rate = "" if self.images_per_second is None else f", {self.images_per_second:,.0f} images/s"
        whole = "" if self.complete else f" of {self.recipe.epochs:g}"
        few = "" if self.epochs >= 1 else "; it has not seen all of the data once: give it more time"
        return (
            f"{self.network}: {', '.join(scores)} after {self.epochs:.4g}{whole} epochs "
            f"in {self.seconds:.0f} s with all scoring ({self.device}, {self.precision}{rate}){few}"
        )


def device_name(device: torch.device) -> str:
    """What the device calls itself: the GPU's model, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _percent(interval: Interval) -> str:
    return f"{100 * interval.value:.2f}% ({100 * interval.low:.2f} to {100 * interval.high:.2f})"
