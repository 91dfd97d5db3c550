"""How fast the original trains here: what a healing is expected to take before any was done."""

from __future__ import annotations

from tenfold.errors import NetworkError
from tenfold.search.frontier import ORIGINAL
from tenfold.search.job import Job
from tenfold.training import precision_and_pace

TRAINING_OVER_FORWARD = 3.0  # seconds of a training step over those of a forward pass
PACE_EXAMPLES = 16


def original_pass(job: Job) -> float:
    """Seconds of training the original for a pass over the training data, from a step in the arithmetic that suits it.

    Measured once for a run.
    """
    task, stored = job.task, job.store.step("pace")
    if stored is None:
        try:
            _, pace = precision_and_pace(task.model, task.example(PACE_EXAMPLES), examples=PACE_EXAMPLES)
        except (RuntimeError, NetworkError):  # it has no backward pass; what heals will say so
            pace = TRAINING_OVER_FORWARD * (job.store.point(ORIGINAL).seconds_per_example or 1e-3)
        stored = {"seconds_per_example": pace}
        job.store.finish_step("pace", stored)
    return float(stored["seconds_per_example"]) * len(task.train)
