"""How many passes over the data a healing has time for, and how they show the images."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from tenfold.compress.batches import SMALL_BATCH
from tenfold.data import Split
from tenfold.training import Distillation, FitResult, Remembered, fit
from tenfold.training.precision import device_of
from tenfold.training.views import is_image

TRIAL_STEPS, TRIAL_STEPS_ON_GPU = 3, 40
TRIAL_SHARE = 0.1  # at most so much of the time goes into a trial's steps
MARGIN = 0.97  # of the time that is planned with: a pace varies
MIXED_PASSES, MIXED_STEPS = 4.0, 2_000  # images are mixed from so many on …
MOST_LABELS = 0.5  # … where labels, which say nothing of mixed images, have no more weight than this
MIXED_PACE = 1.25  # a mixed step takes at least so many times as long: the teacher answers in each


def may_mix(train: Split, alpha: float, batch_size: int, epochs: float, steps: int | None = None) -> bool:
    """Whether images are better mixed with each other in so many `epochs`, ended after so many `steps`.

    `alpha` is the weight of the labels. A ResNet-56 on CIFAR-10 without six of its blocks, healed on 2,000 to 50,000
    images, lost as much mixed as plain after 1,100 steps, and 0.2 to 0.6 points less after 2,700 and more
    (benchmarks/compress/mixing.json).
    """
    if alpha > MOST_LABELS or batch_size < SMALL_BATCH:
        return False
    planned = epochs * max(1, len(train) // batch_size)
    if epochs < MIXED_PASSES or min(planned, planned if steps is None else steps) < MIXED_STEPS:
        return False
    inputs, targets = train.select([0])
    return is_image(inputs) and not targets.is_floating_point() and targets.ndim == 1


def how_shown(mixing: bool) -> dict[str, Any]:
    """How `fit` shows images and counts their statistics.

    A few passes over plain images heal better, on few examples far better, with the statistics that were measured
    afresh; many steps of mixed images with those of each batch: a ResNet-56 on CIFAR-10 without six of its blocks lost
    1.0 points after 18 passes over 50,000 plain images, 0.7 mixed, 0.4 mixed by the statistics of batches.
    """
    return {"mixing": mixing, "hold_norms": not mixing}


@dataclass(frozen=True)
class Pace:
    """Seconds: of a pass that waits for nothing, of reading all examples, which the first pass waits for, and of the
    teacher's answers, which the first pass in each of so many `views` waits for; `preparing` comes before all passes."""

    alone: float
    reading: float
    teaching: float
    views: int
    preparing: float

    def passes_by(self, deadline: float) -> float:
        """How many passes end by this `time.monotonic()` value."""
        left = MARGIN * (deadline - time.monotonic() - self.preparing)
        if left <= 0:
            return 0.0
        first = self.alone + self.teaching / self.views  # a pass in a view that is new
        if left < first + self.reading:
            return left / (first + self.reading)
        left -= self.reading
        return left / first if left < self.views * first else (left - self.teaching) / self.alone


def pace(
    deadline: float,
    student: nn.Module,
    train: Split,
    objective: Distillation,
    seed: int,
    options: Mapping[str, Any],
    mixing: bool,
) -> Pace | None:
    """The pace of training a copy of `student` with these `options` of `fit`; None where there is no time for a step."""
    steps_per_pass = max(1, len(train) // options["batch_size"])
    trial, trial_objective = copy.deepcopy(student), objective.for_trial()
    on_gpu = device_of(student).type != "cpu"

    def trained(until: float) -> FitResult:
        epochs = (TRIAL_STEPS_ON_GPU if on_gpu else TRIAL_STEPS) / steps_per_pass
        return fit(
            trial, train, trial_objective, epochs=epochs, until=min(until, deadline), seed=seed, graph=True,
            **options, **how_shown(mixing),
        )  # fmt: skip

    def share() -> float:
        return time.monotonic() + TRIAL_SHARE * max(0.0, deadline - time.monotonic())

    # The first steps of a network are slower than all others, and these wait for the teacher.
    first = trained(share() if on_gpu else deadline)
    again = trained(share() + first.preparing if on_gpu else deadline)
    done = again if again.steps else first
    if not done.steps:
        return None
    # On a GPU the first steps take many times as long: of an optimiser that sets its state up, for one.
    step = done.pace if on_gpu else (done.seconds - done.preparing) / done.steps
    reading = train.waiting() if isinstance(train, Remembered) else 0.0
    teaching = 0.0 if mixing else objective.waiting()
    return Pace(step * steps_per_pass, reading, teaching, len(objective.views), done.preparing)
