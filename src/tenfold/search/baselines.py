"""What doing nothing clever gives: the network exported, plainly quantised, and in PyTorch, as far as there is time."""

from __future__ import annotations

import time

from tenfold.compress import Recipe, Step
from tenfold.compress.quantize import Mode, Quantize
from tenfold.errors import OutOfTime, OutputError, TenfoldError
from tenfold.search.finish import seconds_spare
from tenfold.search.frontier import BASELINES, EAGER, ORIGINAL
from tenfold.search.job import Job, Progress, add_point
from tenfold.search.point import Point

MODES = {"int8-static": Mode.STATIC, "int8-dynamic": Mode.DYNAMIC}


def add_baselines(job: Job) -> dict[str, str]:
    """Make those that are not stored yet; returns why, for each INT8 one that cannot be made.

    The fp32 export must work, and is made however short the time: everything is compared with it. Another one is
    begun only while there is time for it.
    """
    with job.clock.phase("baselines") as progress:
        for number, (point_id, (label, precision)) in enumerate(BASELINES.items()):
            if job.store.has(point_id) or point_id in job.store.failures():
                continue
            progress(number / len(BASELINES), label)
            # Everything is compared with the original, so it is waited for; others are left to whoever makes them.
            held = job.store.waiting_for if point_id == ORIGINAL else job.store.claimed
            with held(point_id) as claim:
                if claim is None or job.store.has(point_id):
                    continue
                if point_id != ORIGINAL and seconds_for_more(job) <= 0:
                    continue
                try:
                    point = Point(point_id, "baseline", label, precision)
                    add_baseline(job, point, job.telling(progress, label))
                except OutOfTime:
                    pass  # with more of it, it can be made
                except TenfoldError as error:
                    if point_id in (ORIGINAL, EAGER) or isinstance(error, OutputError):
                        raise
                    job.store.note_failure(point_id, str(error))
            job.keep_time()  # a process that is killed must not be given it again
        progress(1.0, "")
    return job.store.failures()


def seconds_for_more(job: Job) -> float:
    """What is left for making another network before it is exported and scored, which takes what the original did."""
    original = job.store.point(ORIGINAL)
    return seconds_spare(job) - (original.seconds or 0.0)


def add_baseline(job: Job, point: Point, progress: Progress) -> None:
    """Make one baseline and store it."""
    began = time.monotonic()
    model, steps = job.task.model, []
    if point.precision in MODES:
        quantize = Quantize(mode=MODES[point.precision])
        problems = quantize.preflight(model, job.task, job.device)
        if problems:
            raise TenfoldError("; ".join(map(str, problems)))
        applied = quantize.apply(model, job.task, job.run(progress, seconds_for_more(job)))
        model, steps = applied.model, [Step(quantize, applied.resolved)]
    recipe = Recipe(tuple(step.technique for step in steps), job.seed)
    counts = job.original_profile()
    point.params, point.macs = counts.params, counts.macs
    served = recipe if point.precision != EAGER else None
    add_point(job, point, model, steps, served, progress, began)
