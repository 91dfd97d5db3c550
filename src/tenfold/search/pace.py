"""How fast the original trains here: what a healing is expected to take before any was done."""

from __future__ import annotations

import copy

from tenfold.errors import NetworkError
from tenfold.search.frontier import ORIGINAL
from tenfold.search.job import Job
from tenfold.training import precision_and_pace

TRAINING_OVER_FORWARD = 3.0  # seconds of a training step over those of a forward pass
PACE_EXAMPLES = 16
GPU_EXAMPLES = 128  # a GPU takes as long for few


def original_pass(job: Job) -> float:
    """Seconds of training the original for a pass over the training data, from a step in the arithmetic that suits it.

    Measured once for a run.
    """
    task, stored = job.task, job.store.step("pace")
    if stored is None:
        try:
            examples = PACE_EXAMPLES if job.train_on.type == "cpu" else GPU_EXAMPLES
            model = copy.deepcopy(task.model).to(job.train_on)
            _, pace = precision_and_pace(model, task.example(examples), examples=examples)
        except (RuntimeError, NetworkError):  # it has no backward pass; what heals will say so
            pace = TRAINING_OVER_FORWARD * (job.store.point(ORIGINAL).seconds_per_example or 1e-3)
        stored = {"seconds_per_example": pace}
        job.store.finish_step("pace", stored)
    return float(stored["seconds_per_example"]) * len(task.train)
