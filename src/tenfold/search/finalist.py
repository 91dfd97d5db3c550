"""Making a finalist: the structure is cut, healed by distillation, and exported in each precision."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from tenfold.compress import Recipe, Step, Technique, is_saved, load, read_structure, save
from tenfold.compress.distill import Distill
from tenfold.compress.quantize import Average, Quantize
from tenfold.compress.saved import STRUCTURE
from tenfold.compress.technique import Json
from tenfold.errors import OutputError, TenfoldError
from tenfold.report.wording import counted_passes
from tenfold.search.budget import MB
from tenfold.search.finish import seconds_spare
from tenfold.search.job import Job, Progress, add_point
from tenfold.search.packed import PACKED, bits_for, packed
from tenfold.search.point import Point
from tenfold.search.proposals import BITS, Proposal
from tenfold.search.structures import prune_step
from tenfold.training import View

PRECISIONS: dict[str, tuple[Technique, ...]] = {"fp32": (), "int8-static": (Quantize(),)}


@dataclass
class Healed:
    """A changed network between two healings: the model, its steps, and how many passes it had."""

    model: nn.Module
    steps: tuple[Step, ...]
    passes: float
    seconds_per_pass: float | None
    seconds: float = 0.0  # of the last healing


def healing_file(job: Job, name: str) -> Path:
    """Where a finalist's healing is kept while it goes on."""
    return job.store.root / "cache" / f"{name}-healing.safetensors"


def healed_folder(job: Job, name: str) -> Path:
    """Where a finalist is kept in float once it is healed."""
    return job.store.root / "cache" / f"{name}-healed"


def keep(job: Job, name: str, healed: Healed) -> None:
    """Store a healed finalist, to be healed on or served in other forms later, perhaps by another process."""
    save(healed_folder(job, name), healed.model, healed.steps, inputs=job.task.example(2), overwrite=True)


def recalled(job: Job, name: str, passes: float = 0.0, pace: float | None = None) -> Healed | None:
    """What `keep` stored, or None."""
    folder = healed_folder(job, name)
    if not is_saved(folder):
        return None
    steps = read_structure(folder / STRUCTURE).steps
    return Healed(load(folder, job.task.model), steps, passes, pace)


def heal(job: Job, name: str, before: Healed, seconds: float, progress: Progress) -> Healed:
    """Distil for about `seconds`. The step that is recorded is bounded by passes, so that it can be repeated."""
    began = time.monotonic()
    distill = Distill(seconds=seconds)
    applied = distill.apply(before.model, job.task, job.run(progress, seconds, healing_file(job, name)))
    found, seconds_taken = applied.resolved, time.monotonic() - began
    passes = float(found["epochs"])
    if passes == 0:  # there was no time for a step: a recipe that said so would train elsewhere
        return replace(before, seconds=seconds_taken)
    # The passes of a process that was stopped took none of these seconds.
    here = passes - float(found["epochs_before"])
    pace = float(found["training_seconds"]) / here if here > 0 else before.seconds_per_pass
    if job.train_on.type != "cpu" and here > 0:  # where the first reading takes as long as training
        pace = float(found["step_seconds"]) * max(1, found["examples"] // found["batch_size"])
    step = Step(repeatable(distill, found), found)
    return Healed(applied.model, (*before.steps, step), before.passes + passes, pace, seconds_taken)


def repeatable(distill: Distill, found: Json) -> Distill:
    """The healing that was done, with what timing decided stated: a machine of another speed makes the same network."""
    return replace(
        distill,
        seconds=None,
        epochs=found["planned_epochs"],
        steps=found["steps"] if found["cut_short"] else None,
        precision=found["precision"],
        teacher_precision=found["teacher_precision"],
        views=tuple(View(view) for view in found["views"]),
        mixing=found["mixing"],
    )


def cut(job: Job, proposal: Proposal, progress: Progress) -> Healed:
    """The structure, not yet healed."""
    prune: Technique = prune_step(proposal.plan)
    applied = prune.apply(job.task.model, job.task, job.run(progress))
    return Healed(applied.model, (Step(prune, applied.resolved),), 0.0, None)


def add_finalist(
    job: Job, name: str, healed: Healed, proposal: Proposal, began: float, progress: Progress
) -> list[Point]:
    """Export, verify, score and store it in each precision; a precision that cannot be served is left out."""
    points: list[Point] = []
    trouble: list[TenfoldError] = []
    for precision, extra in served_as(job, proposal).items():
        point_id = f"{name}-{precision.split('-')[0]}"
        if job.store.has(point_id):
            points.append(job.store.point(point_id))
            continue
        try:
            model, steps = healed.model, healed.steps
            # Rounding with care must end in time; the rest takes a moment.
            seconds = max(seconds_spare(job), 0.0) if precision == PACKED else math.inf
            for technique in extra:
                applied = technique.apply(model, job.task, job.run(progress, seconds))
                model, steps = applied.model, (*steps, Step(technique, applied.resolved))
            recipe = Recipe(tuple(step.technique for step in steps), job.seed)
            point = Point(point_id, "candidate", label(proposal, healed, precision, extra), precision)
            point.params, point.macs = proposal.params, proposal.macs
            if proposal.precision == precision.split("-")[0]:
                point.predicted_latency_ms = proposal.latency_ms
                point.predicted_latency_low_ms = proposal.latency_low_ms
                point.predicted_latency_high_ms = proposal.latency_high_ms
            points.append(add_point(job, point, model, steps, recipe, progress, began))
        except OutputError:  # a full disk is no fault of the form
            raise
        except TenfoldError as error:
            trouble.append(error)
    if not points:
        raise trouble[0]
    return points


def served_as(job: Job, proposal: Proposal) -> dict[str, tuple[Technique, ...]]:
    """The precisions to export it in: all but those whose weights alone are larger than the budget allows."""
    limit = math.inf if job.budget.size_mb is None else job.budget.size_mb * MB
    served = {
        precision: extra
        for precision, extra in PRECISIONS.items()
        if precision.startswith(proposal.precision)
        or proposal.params * BITS[precision.split("-")[0]] / 8 <= limit
    }
    if proposal.precision == "packed":
        served[PACKED] = (packed(bits_for(job, proposal)),)
    return served


def label(proposal: Proposal, healed: Healed, precision: str, extra: Sequence[Technique]) -> str:
    """A line that tells it apart."""
    parts = []
    if proposal.plan.blocks:
        number = len(proposal.plan.blocks)
        parts.append(f"{number} block{'s' if number != 1 else ''} dropped")
    if proposal.plan.keep:
        shares = sorted({share for _, share in proposal.plan.keep})
        parts.append(
            f"channels kept {'–'.join(f'{share:.0%}' for share in dict.fromkeys((shares[0], shares[-1])))}"
        )
    if healed.passes:
        parts.append(f"healed {counted_passes(healed.passes)}")
    bits = [
        each.stored_bits.bits
        for each in extra
        if isinstance(each, Quantize) and isinstance(each.stored_bits, Average)
    ]
    names = {"fp32": "fp32", "int8-static": "INT8 static"}
    parts.append(names.get(precision) or f"INT8, {bits[0]:.3g} bits a weight")
    return ", ".join(parts)
