"""How fast the original trains here: what a healing is expected to take before any was done."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tenfold.compress.batches import batch_for, training_bytes
from tenfold.compress.distill import Distill
from tenfold.compress.passes import TRIAL_STEPS_ON_GPU
from tenfold.cost import call
from tenfold.data import Task
from tenfold.errors import NetworkError
from tenfold.search.finish import seconds_spare
from tenfold.search.frontier import ORIGINAL
from tenfold.search.job import Job
from tenfold.training import AdamW, Batch, View, fit, precision_and_pace, remembered

TRAINING_OVER_FORWARD = 3.0  # seconds of a training step over those of a forward pass
PACE_EXAMPLES = 16
PACE_STEPS = 4  # that each arithmetic is tried with
PACE_SHARE = 0.03  # of the time limit, for trying them on the processor …
FORWARD_SHARE = 0.01  # … and for forward passes there
FORWARD_TRIES = 3
BATCHES = 4  # that a GPU takes its steps on: what is read once is no part of the pace


def original_pass(job: Job, place: torch.device | None = None) -> float:
    """Seconds of training the original for a pass over the training data, from steps in the arithmetic that suits it.

    `place` is where it would train, by default where the job heals. Measured once for a run and a kind of device; where
    there is no time for that it is guessed from a forward pass on the processor (which a GPU takes less than), and
    measured by a run that goes on.
    """
    task, place = job.task, place or job.train_on
    name = "pace" if place.type == "cpu" else f"pace-{place.type}"
    stored = job.store.step(name) or job.cache.get(name)
    if stored is None:
        try:
            if place.type == "cpu":
                pace = pace_of(job)
            else:
                pace = pace_on_gpu(task, place) if seconds_spare(job) > 0 else None
        except (RuntimeError, NetworkError):  # it has no backward pass; what heals will say so
            pace = TRAINING_OVER_FORWARD * (job.store.point(ORIGINAL).seconds_per_example or 1e-3)
        if pace is None:
            stored = job.cache[name] = {"seconds_per_example": TRAINING_OVER_FORWARD * forward_pace(job)}
        else:
            stored = {"seconds_per_example": pace}
            job.store.finish_step(name, stored)
    return float(stored["seconds_per_example"]) * len(task.train)


def pace_of(job: Job) -> float | None:
    """Seconds for an example on the processor, from a few passes forward and backward: the rest of a step is little.

    Fewer examples, and fewer kinds of arithmetic, where the network is so slow that they would take too long; None
    where two examples would.
    """
    allowed = min(PACE_SHARE * job.clock.limit, seconds_spare(job))
    each = PACE_STEPS * TRAINING_OVER_FORWARD * forward_pace(job)
    examples = min(PACE_EXAMPLES, int(allowed / each))
    if examples < 2:
        return None
    last = time.monotonic() + allowed - examples * each  # that another arithmetic may begin
    inputs = job.task.example(examples)
    return precision_and_pace(copy.deepcopy(job.task.model), inputs, examples=examples, deadline=last)[1]


def forward_pace(job: Job) -> float:
    """Seconds for an example forward through the original, in PyTorch on the processor; measured once for a run.

    On one example, and then on up to sixteen together, as the time allows; of three such passes the quickest counts,
    for a machine that is busy for a moment is not a slow network.
    """
    stored = job.store.step("forward")
    if stored is None:
        pace = forward_seconds(job.task, 1)
        allowed = FORWARD_SHARE * job.clock.limit
        number = min(PACE_EXAMPLES, int(allowed / pace))
        until = time.monotonic() + allowed - number * pace
        for _ in range(FORWARD_TRIES if number > 1 else 0):
            pace = min(pace, forward_seconds(job.task, number) / number)
            if time.monotonic() > until:
                break
        stored = {"seconds_per_example": pace}
        job.store.finish_step("forward", stored)
    return float(stored["seconds_per_example"])


def forward_seconds(task: Task, examples: int) -> float:
    """Seconds of a forward pass of so many, above 0 however coarse the clock."""
    inputs, began = task.example(examples), time.monotonic()
    with torch.no_grad():
        call(task.model, inputs)
    return max(time.monotonic() - began, 1e-9)


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
