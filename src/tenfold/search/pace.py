"""How fast the original trains here: what a healing is expected to take before any was done."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tenfold.compress.batches import batch_for, training_bytes
from tenfold.compress.distill import Distill
from tenfold.compress.passes import TRIAL_STEPS_ON_GPU
from tenfold.data import Task
from tenfold.errors import NetworkError
from tenfold.search.frontier import ORIGINAL
from tenfold.search.job import Job
from tenfold.training import AdamW, Batch, View, fit, precision_and_pace, remembered

TRAINING_OVER_FORWARD = 3.0  # seconds of a training step over those of a forward pass
PACE_EXAMPLES = 16
BATCHES = 4  # that a GPU takes its steps on: what is read once is no part of the pace


def original_pass(job: Job, place: torch.device | None = None) -> float:
    """Seconds of training the original for a pass over the training data, from steps in the arithmetic that suits it.

    `place` is where it would train, by default where the job heals. Measured once for a run and a kind of device.
    """
    task, place = job.task, place or job.train_on
    name = "pace" if place.type == "cpu" else f"pace-{place.type}"
    stored = job.store.step(name)
    if stored is None:
        try:
            pace = pace_on_gpu(task, place) if place.type != "cpu" else pace_of(task)
        except (RuntimeError, NetworkError):  # it has no backward pass; what heals will say so
            pace = TRAINING_OVER_FORWARD * (job.store.point(ORIGINAL).seconds_per_example or 1e-3)
        stored = {"seconds_per_example": pace}
        job.store.finish_step(name, stored)
    return float(stored["seconds_per_example"]) * len(task.train)


def pace_of(task: Task) -> float:
    """Seconds for an example on the processor, from a few passes forward and backward: the rest of a step is little."""
    model = copy.deepcopy(task.model)
    return precision_and_pace(model, task.example(PACE_EXAMPLES), examples=PACE_EXAMPLES)[1]


def pace_on_gpu(task: Task, place: torch.device) -> float:
    """Seconds for an example on a GPU, from whole steps of a batch: it takes as long for few examples as for many, and
    what stands around the passes takes a good part of a step."""
    batch = batch_for(len(task.train), Distill.batch_size, training_bytes(task.model, task.zeros(1)))
    model = copy.deepcopy(task.model).to(place)
    precision, _ = precision_and_pace(model, task.example(batch), examples=batch)
    few = remembered(task.train.take(BATCHES * batch), place)
    done = fit(
        model, few, Standstill(), epochs=TRIAL_STEPS_ON_GPU * batch / len(few), optimizer=AdamW(1e-6),
        batch_size=batch, precision=precision, hold_norms=True, graph=True,
    )  # fmt: skip
    return done.pace / batch


class Standstill:
    """An objective that takes as long as answers that are kept, and teaches nothing: the answers' energy, hardly weighed."""

    views: tuple[View, ...] = (View.IDENTITY,)

    def __call__(self, outputs: Tensor, batch: Batch) -> Tensor:
        """1e-6 · the mean square of the outputs."""
        return 1e-6 * outputs.square().mean()

    @contextmanager
    def watching(self, student: nn.Module) -> Iterator[list[nn.Parameter]]:
        """Nothing is watched."""
        yield []
