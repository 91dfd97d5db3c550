"""How fast the original trains here: what a healing is expected to take before any was done."""

from __future__ import annotations

import copy

import torch

from tenfold.compress.distill import Distill, batch_for, training_bytes
from tenfold.errors import NetworkError
from tenfold.search.frontier import ORIGINAL
from tenfold.search.job import Job
from tenfold.training import precision_and_pace

TRAINING_OVER_FORWARD = 3.0  # seconds of a training step over those of a forward pass
PACE_EXAMPLES = 16


def original_pass(job: Job, place: torch.device | None = None) -> float:
    """Seconds of training the original for a pass over the training data, from a step in the arithmetic that suits it.

    `place` is where it would train, by default where the job heals. Measured once for a run and a kind of device.
    """
    task, place = job.task, place or job.train_on
    name = "pace" if place.type == "cpu" else f"pace-{place.type}"
    stored = job.store.step(name)
    if stored is None:
        examples = PACE_EXAMPLES
        if place.type != "cpu":  # which takes as long for few as for a batch
            examples = batch_for(
                len(task.train), Distill.batch_size, training_bytes(task.model, task.zeros(1))
            )
        try:
            model = copy.deepcopy(task.model).to(place)
            _, pace = precision_and_pace(model, task.example(examples), examples=examples)
        except (RuntimeError, NetworkError):  # it has no backward pass; what heals will say so
            pace = TRAINING_OVER_FORWARD * (job.store.point(ORIGINAL).seconds_per_example or 1e-3)
        stored = {"seconds_per_example": pace}
        job.store.finish_step(name, stored)
    return float(stored["seconds_per_example"]) * len(task.train)
