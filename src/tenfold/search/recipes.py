"""Recipes that the user gave, each a point of the run: applied to the untouched network, exported, verified, scored.

They are made once the baselines stand and before anything is searched for. All of them together may take half of the
time that is left then, beside what the end needs; each has an equal part of what those before it left of that.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from tenfold.compress import Recipe, Step, Technique, apply_recipe, technique_name
from tenfold.compress.distill import DEFAULT_EPOCHS, Distill
from tenfold.compress.recipe import forget_checkpoints
from tenfold.compress.registry import is_final
from tenfold.cost import profile
from tenfold.deploy import precision_of
from tenfold.errors import OutOfTime, OutputError, TenfoldError, memory_reported
from tenfold.report.wording import counted_passes, duration, told_passes
from tenfold.search.applying import served_latency
from tenfold.search.finalist import healing_file, repeatable
from tenfold.search.finish import seconds_spare
from tenfold.search.job import Job, Progress, add_point
from tenfold.search.pace import original_pass
from tenfold.search.point import Point
from tenfold.search.roster import LATE, SHORTENED, Asked, titled
from tenfold.search.serving import before_integers
from tenfold.search.variants import seconds_plain

SHARE = 0.5  # of the time that is left for the search, which all recipes together may take
MAKING = 0.9  # of a recipe's progress, that applying it counts for; the rest is scoring
HOPELESS = 2.0  # a training expected to take so many times what it is given is not begun


def add_recipes(job: Job) -> None:
    """Make those that are not stored yet, each if its part of the time allows; why one was left out is on record."""
    failed = job.store.failures()
    unmade = [asked for asked in job.recipes if asked.id not in failed and not job.store.has(asked.id)]
    if not unmade:
        return
    end = time.monotonic() + SHARE * max(seconds_spare(job), 0.0)
    with job.clock.phase("recipes") as progress:
        for number, asked in enumerate(unmade):

            def told(fraction: float, text: str, number: int = number) -> None:
                progress((number + fraction) / len(unmade), text)

            with job.store.claimed(asked.id) as claim:
                if claim is None or job.store.has(asked.id):
                    continue
                seconds = (end - time.monotonic()) / (len(unmade) - number)
                add_recipe(job, asked, seconds, job.telling(told, asked.id))
            job.keep_time()
        progress(1.0, "")


def add_recipe(job: Job, asked: Asked, seconds: float, progress: Progress) -> None:
    """Make one within about `seconds` and store it as a point; one that cannot be made is put on record."""
    began = time.monotonic()
    progress(0.0, titled(asked.name))
    try:
        with memory_reported():
            model, steps = made(job, asked, seconds, progress)
            recipe = Recipe(tuple(step.technique for step in steps), asked.recipe.seed)
            point = Point(asked.id, "candidate", label(asked, steps), precision_of(model).value)
            floats = before_integers(steps, job.task) if is_final(recipe.steps[-1]) else model
            counts = profile(floats, job.task.zeros(job.device.batch))
            point.params, point.macs = counts.params, counts.macs
            add_point(job, point, model, steps, recipe, scoring(progress), began)
        if shortened := shortening(asked, steps):
            job.store.finish_step(f"{SHORTENED}{asked.id}", shortened)
    except OutputError:  # a full disk is no fault of the recipe …
        raise
    except OutOfTime as error:  # … and neither is the time: with more of it, it is tried again
        job.store.finish_step(f"{LATE}{asked.id}", f"{error}; give more time")
    except TenfoldError as error:
        job.store.note_failure(asked.id, str(error))
    # Kept where the process was stopped, or the disk is full.
    forget_checkpoints(healing_file(job, asked.id), len(asked.recipe.steps))


def made(job: Job, asked: Asked, seconds: float, progress: Progress) -> tuple[nn.Module, tuple[Step, ...]]:
    """The changed network, and its steps as they can be repeated; `OutOfTime` where it takes more than its part."""
    steps, each = asked.recipe.steps, seconds_plain(job)
    # What comes after it, the export and the scoring, takes no longer than all of plain INT8 did.
    working = seconds - each
    part = f"its part of the time, {duration(max(seconds, 0.0))}"
    if working <= 0:
        raise OutOfTime(f"{part}, is less than another network takes to export and score")
    fixed = sum(passes(step) for step in steps if not isinstance(step, Distill))
    if fixed and (training := fixed * original_pass(job)) > HOPELESS * working:
        raise OutOfTime(
            f"{part}, is too short for {counted_passes(fixed)} of training, some {duration(training)}"
        )
    run = job.run(
        lambda fraction, text: progress(MAKING * fraction, text), working, healing_file(job, asked.id)
    )
    run.seed = asked.recipe.seed
    run.latency = lambda network: served_latency(network, job.task, job.device)
    timetable = Timetable(steps, run.deadline, each)
    try:
        model, done = apply_recipe(asked.recipe, job.task, run, timetable)
        timetable.require(len(steps))
    except OutOfTime as error:
        raise OutOfTime(f"{part}, did not do: {error}") from error
    for step in done:
        if isinstance(step.technique, Distill) and not step.resolved["steps"]:
            raise OutOfTime(f"{part}, did not do for a step of healing")
    return model, tuple(
        Step(repeatable(step.technique, step.resolved), step.resolved)
        if isinstance(step.technique, Distill)
        else step
        for step in done
    )


@dataclass
class Timetable:
    """When each step of a recipe must be done: `end` for the last, `each` seconds earlier for each that follows.

    A `Distill` takes the passes that it has time for; what trains later keeps its share of that time, by the passes.
    Everything else takes the time it needs, or the recipe is left out.
    """

    steps: Sequence[Technique]
    end: float
    each: float
    due: float = math.inf

    def __call__(self, index: int) -> float:
        """The `time.monotonic()` by which step `index`, which begins now, must be done; the ones before are over."""
        self.require(index)
        now, rest = time.monotonic(), self.steps[index:]
        following = sum(not isinstance(step, Distill) for step in rest[1:])
        spare = self.end - self.each * following - now
        if isinstance(rest[0], Distill):
            spare *= passes(rest[0]) / sum(map(passes, rest))
        self.due = now + spare
        return self.due

    def require(self, index: int) -> None:
        """`OutOfTime` if the step before `index` took more: it may have decided by less than it was to read."""
        last = self.steps[index - 1] if index else None
        if last is not None and not isinstance(last, Distill) and time.monotonic() > self.due:
            raise OutOfTime(f"the time was over before the end of step {index} ({technique_name(last)})")


def passes(technique: Technique) -> float:
    """Over the training data, that a technique trains for if it has the time."""
    if isinstance(technique, Distill):
        return DEFAULT_EPOCHS if technique.epochs is None else technique.epochs
    return float(getattr(technique, "epochs", 0.0))


def label(asked: Asked, steps: Sequence[Step]) -> str:
    """The name, if it has one, and the steps: "prune-heal: prune, healed 10 passes"."""
    told = ", ".join(
        f"healed {counted_passes(step.resolved['epochs'])}"
        if isinstance(step.technique, Distill)
        else technique_name(step.technique)
        for step in steps
    )
    return f"{titled(asked.name)}: {told}" if asked.name else told


def shortening(asked: Asked, steps: Sequence[Step]) -> str:
    """What is said of healings that the time cut short; "" where none was."""
    short = [
        f"{told_passes(step.resolved['epochs'])} of {told_passes(passes(wanted))}"
        for wanted, step in zip(asked.recipe.steps, steps, strict=True)
        if isinstance(wanted, Distill)
        and wanted.seconds is None
        and wanted.steps is None
        and step.resolved["diverged"] is None
        and step.resolved["epochs"] < passes(wanted) - 1e-6
    ]
    if not short:
        return ""
    return f"healed for {' and '.join(short)} passes, for which there was time: with more, and another --out, it may lose less"


def scoring(progress: Progress) -> Progress:
    """The progress of what comes after applying."""
    return lambda fraction, text: progress(MAKING + (1 - MAKING) * fraction, text)
