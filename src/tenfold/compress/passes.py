"""How many passes over the data a healing has time for, and how they show the images."""

from __future__ import annotations

import copy
import time
from typing import Any

from torch import nn

from tenfold.compress.batches import SMALL_BATCH
from tenfold.data import Split
from tenfold.training import Distillation, FitResult, Remembered, fit
from tenfold.training.precision import device_of
from tenfold.training.views import is_image

PACE_STEPS, PACE_STEPS_ON_GPU = 3, 40  # of a trial
PACE_MARGIN = 0.97  # of the time that is planned with: a pace varies
MIXED_PASSES, MIXED_STEPS = 4.0, 2_000  # images are mixed from so many on …
MOST_LABELS = 0.5  # … where labels, which say nothing of mixed images, have no more weight than this


def may_mix(train: Split, alpha: float, batch_size: int, epochs: float) -> bool:
    """Whether images are better mixed with each other in so many passes, with this weight of the labels.

    A ResNet-56 on CIFAR-10 without six of its blocks, healed on 2,000 to 50,000 images, lost as much mixed as plain
    after 1,100 steps, and 0.2 to 0.6 points less after 2,700 and more (benchmarks/compress/mixing.json).
    """
    if alpha > MOST_LABELS or batch_size < SMALL_BATCH:
        return False
    if epochs < MIXED_PASSES or epochs * max(1, len(train) // batch_size) < MIXED_STEPS:
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


def passes_within(
    deadline: float,
    student: nn.Module,
    train: Split,
    objective: Distillation,
    seed: int,
    options: dict[str, Any],
    mixing: bool,
) -> float:
    """How many passes over the data fit before the deadline, from the pace of a few steps on a copy.

    The first pass in each view also waits for the teacher, whose answers are kept after that.
    """
    steps_per_pass = max(1, len(train) // options["batch_size"])
    trial, trial_objective = copy.deepcopy(student), objective.for_trial()

    on_gpu = device_of(student).type != "cpu"

    def tried() -> FitResult:
        few = (PACE_STEPS_ON_GPU if on_gpu else PACE_STEPS) / steps_per_pass
        return fit(
            trial, train, trial_objective, epochs=few, until=deadline, seed=seed, graph=True,
            **options, **how_shown(mixing),
        )  # fmt: skip

    tried()  # the first steps of a network are slower than all others, and these wait for the teacher
    done = tried()
    # On a GPU the first steps take many times as long: of an optimiser that sets its state up, for one.
    step = done.pace if on_gpu else (done.seconds - done.preparing) / max(done.steps, 1)
    alone = step * steps_per_pass
    left = PACE_MARGIN * max(0.0, deadline - time.monotonic() - done.preparing)
    left -= train.waiting() if isinstance(train, Remembered) else 0.0
    waiting = 0.0 if mixing else objective.waiting()
    passes = (left - waiting) / alone
    if passes < len(objective.views):  # so few that the teacher is waited for in all of them
        passes = left / (alone + waiting / len(objective.views))
    return max(passes, 0.0)
