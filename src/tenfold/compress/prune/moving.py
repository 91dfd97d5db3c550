"""Movement pruning of a network: train it with scores on its weights under distillation, then leave the zeros in it."""

from __future__ import annotations

import math
from collections.abc import Mapping

from torch import nn

from tenfold.compress.distill import Distill, batch_for, teacher_outputs
from tenfold.compress.layers import Weighted
from tenfold.compress.prune.learned_scores import Growing, scored
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.training import Distillation, fit

RAMP = 0.7  # of the steps raise the share of zeros; in the others the weights settle


def moved(
    model: nn.Module, layers: Mapping[str, Weighted], task: Task, run: Run, *, ratio: float, epochs: float
) -> None:
    """Train `model` in place for `epochs` passes; afterwards the share `ratio` of each layer's weights is zero."""
    batch_size = batch_for(len(task.train), Distill().batch_size)
    steps = math.ceil(epochs * max(1, len(task.train) // batch_size))
    teacher = teacher_outputs(task.model if run.teacher is None else run.teacher, task.train, run)
    settings = Distill()
    inner = Distillation(teacher, temperature=settings.temperature, alpha=settings.alpha)
    with scored(layers) as scores:
        objective = Growing(inner, scores, ratio, round(RAMP * steps))
        try:
            fit(
                model,
                task.train,
                objective,
                epochs=epochs,
                optimizer=settings.optimizer(model, batch_size),
                batch_size=batch_size,
                seed=run.seed,
                hold_norms=True,
                progress=run.progress,
            )
        finally:
            teacher.save()
    model.eval()
