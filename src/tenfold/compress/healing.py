"""A short healing inside a technique, where what may move is not a plain weight: scores, tables of shared values."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tenfold.compress.batches import asked_together, batch_for, held_out, training_bytes
from tenfold.compress.distill import Distill, teacher_outputs
from tenfold.compress.technique import Run
from tenfold.data import Task
from tenfold.errors import OutOfTime
from tenfold.training import (
    Distillation,
    Objective,
    OptimizerSettings,
    Precision,
    TeacherOutputs,
    fastest_precision,
    fit,
    held_zeros,
    mean_loss,
)
from tenfold.training.place import placed
from tenfold.training.precision import device_of

Wrap = Callable[[Objective, int], Objective]  # an objective and the number of steps to come


@dataclass(frozen=True)
class Healed:
    """Mean losses on held-out examples before and after, and whether the training was `kept`."""

    before: float
    after: float
    kept: bool
    steps: int


def heal(
    model: nn.Module,
    task: Task,
    run: Run,
    epochs: float,
    *,
    wrap: Wrap = lambda objective, steps: objective,
    keep_always: bool = False,
    settings: Distill | None = None,
    optimizer: OptimizerSettings | None = None,
    moves: bool = True,
    graph: bool | None = None,
) -> Healed:
    """Teach `model` in place, for `epochs` passes, to answer as the teacher does; `Distill` with its usual settings.

    `settings` and `optimizer` are others than the usual. It trains where the run says, unless the model holds tensors
    that are neither parameters nor buffers (`moves` is False). `graph` is as in `fit`. Whatever requires gradients is
    trained but zeros of pruned weights, which stay. Unless `keep_always`, weights that answer held-out examples worse
    than before are not kept.

    Raises `OutOfTime` where the run's deadline comes first.
    """
    settings = settings or Distill()
    original = task.model if run.teacher is None else run.teacher
    place = run.place(model) if moves else device_of(model)
    train, held = held_out(task.train)
    asked = None if settings.teacher_precision is None else Precision.named(settings.teacher_precision)
    bytes_each = training_bytes(task.model, task.zeros(1))
    batch_size = batch_for(len(train), settings.batch_size, bytes_each)
    with placed(model, place):
        together = asked_together(place, batch_size, bytes_each)
        teacher = teacher_outputs(original, train, run, together, asked, device=place)
        judge = teacher_outputs(original, held, run, batch_size, teacher.precision, device=place)
        precision = (
            fastest_precision(model, train.select(range(batch_size))[0])
            if settings.precision is None
            else Precision.named(settings.precision)
        )
        steps = math.ceil(epochs * max(1, len(train) // batch_size))

        def objective_of(answers: TeacherOutputs) -> Distillation:
            return Distillation(answers, temperature=settings.temperature, alpha=settings.alpha)

        def judged() -> float:
            return mean_loss(model, held, objective_of(judge), precision=precision)

        before = judged()
        weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
        try:
            with held_zeros(model, task.model):  # as `Distill` does
                result = fit(
                    model,
                    train,
                    wrap(objective_of(teacher), steps),
                    epochs=epochs,
                    until=run.deadline,
                    optimizer=optimizer or settings.optimizer(model, batch_size, before),
                    batch_size=batch_size,
                    seed=run.seed,
                    precision=precision,
                    hold_norms=True,
                    graph=graph,
                    progress=run.progress,
                )
        finally:
            teacher.save()
            teacher.release()
            judge.save()
        if result.steps < steps:  # a recipe states the passes, and would train for all of them elsewhere
            raise OutOfTime(f"the time was over after {result.epochs:.4g} of {epochs:g} passes of training")
        after = judged()
        judge.release()
        kept = keep_always or after < before
        if not kept:
            model.load_state_dict(weights)
    model.eval()
    return Healed(before, after, kept, result.steps)
