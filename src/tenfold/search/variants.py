"""Other forms in which a network can be served, made of the untouched one and of the best that was healed.

They need no training, or little: seconds each. Which are worth them is told from the budget, from what is minimised
and from what the plain forms of the same network measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from tenfold.compress import Recipe, Step, Technique
from tenfold.compress.factorize import Factorize
from tenfold.compress.quantize import Mode, Quantize, QuantizeWeights
from tenfold.compress.registry import is_final
from tenfold.cost import profile
from tenfold.errors import OutOfTime, OutputError, TenfoldError, memory_reported
from tenfold.search.budget import MB, Budget
from tenfold.search.finalist import Healed, recalled
from tenfold.search.finish import seconds_spare
from tenfold.search.frontier import ORIGINAL, choose, mark, nearest
from tenfold.search.job import Job, Progress, add_point
from tenfold.search.pace import original_pass
from tenfold.search.packed import PACKED, decides, packed
from tenfold.search.point import Point

UNTOUCHED = "o"  # begins the names of the points made of the untouched network
SHARE_OF_TIME = 0.25  # of the limit, that is kept for variants if any is worth it
WORTH_MENDING = 0.25  # of the tolerated drop, that integers alone must lose
TRAINED_PASSES = 2.0  # over the training data
ROUNDED_PACE = 2.0  # a step of training rounded weights takes so many times as long as a plain one
PACE = 2.0  # a variant is expected to take so many times as long as the plain INT8 network …
PACKED_PACE = 3.0  # … and one whose weights are rounded to few bits with care


@dataclass(frozen=True)
class Forms:
    """A network in the plain forms that were measured, by precision."""

    name: str
    points: dict[str, Point]

    def latency(self, precision: str) -> float:
        """Milliseconds; infinite where it was not made."""
        point = self.points.get(precision)
        return math.inf if point is None or point.latency_ms is None else point.latency_ms

    def loses(self, precision: str) -> float | None:
        """The drop on validation, where it was scored."""
        point = self.points.get(precision)
        return None if point is None else point.validation_drop


Worth = Callable[[Job, Forms], bool]


@dataclass(frozen=True)
class Variant:
    """A form: the techniques that make it and the bits of a weight in its file, scales included.

    `worth` says when it is worth making, `passes` over the training data what it trains for, `pace` how many times as
    long as the plain INT8 network it takes beside that.
    """

    label: str
    techniques: tuple[Technique, ...]
    bits: float
    worth: Worth
    passes: float = 0.0
    pace: float = PACE


def for_size(job: Job, forms: Forms) -> bool:
    """What makes a file smaller and nothing faster is worth it where size was asked for, or no limit was given."""
    return job.budget.empty or job.minimize == "size" or integers_are_too_large(job, forms)


def integers_are_too_large(job: Job, forms: Forms) -> bool:
    """Where only fewer bits than eight can meet the size, and the float network is fast enough as it is."""
    limit = job.budget.latency_ms
    return too_large(job, forms.points.get("int8-static")) and (
        limit is None or forms.latency("fp32") <= limit
    )


def where_dynamic_is_faster(job: Job, forms: Forms) -> bool:
    """Where the plain network showed that integers pay only without fixed scales, as in transformers."""
    plain = plain_forms(job)
    return forms.name != UNTOUCHED and plain.latency("int8-dynamic") < plain.latency("int8-static")


def where_integers_cost(job: Job, forms: Forms) -> bool:
    """Where the plain INT8 network loses a good part of what is tolerated, and more than the float network does."""
    integers, floats = forms.loses("int8-static"), forms.loses("fp32")
    return (
        integers is not None
        and integers - max(floats or 0.0, 0.0) > WORTH_MENDING * job.budget.tolerated_drop
    )


def where_nothing_was_healed(job: Job, forms: Forms) -> bool:
    """Low rank takes weights away without any training: a way out where there was nothing to heal."""
    return job.budget.empty and forms.name == UNTOUCHED


def for_speed_and_size(job: Job, forms: Forms) -> bool:
    """INT8 of fewer bits in the file, where INT8 is fast enough: where size was asked for, or INT8 is too large."""
    if job.budget.empty or job.minimize == "size":
        return True
    limit = job.budget.latency_ms
    return too_large(job, forms.points.get("int8-static")) and (
        limit is None or forms.latency("int8-static") <= limit or "int8-static" not in forms.points
    )


def where_four_bits_serve(job: Job, forms: Forms) -> bool:
    """Where the packed network of four bits keeps what is tolerated, so that three may as well, and are asked for."""
    asked = job.budget.empty or job.minimize == "size" or too_large(job, forms.points.get(PACKED))
    return asked and four_bits_serve(forms, job.budget) is True


def where_four_bits_lose_much(job: Job, forms: Forms) -> bool:
    """Where it does not: five may. A healed one that has a limit to meet has as many already as the limit allows."""
    asked = for_speed_and_size(job, forms) and (forms.name == UNTOUCHED or not decides(job))
    return asked and four_bits_serve(forms, job.budget) is False


def for_little_loss(job: Job, forms: Forms) -> bool:
    """Six bits, which lose next to nothing, where size was asked for."""
    return (job.budget.empty or job.minimize == "size") and PACKED in forms.points


def for_size_alone(job: Job, forms: Forms) -> bool:
    """`for_size`, where no packed network of integers serves: it is smaller, and faster."""
    return for_size(job, forms) and not four_bits_serve(forms, job.budget)


def four_bits_serve(forms: Forms, budget: Budget) -> bool | None:
    """Whether the packed network of four bits loses no more than is tolerated; None where there is none."""
    point = forms.points.get(PACKED)
    if point is None or point.validation_drop_high is None:
        return None
    return point.validation_drop_high <= budget.tolerated_drop


def too_large(job: Job, point: Point | None) -> bool:
    """Whether there is a limit on size, and the point misses it or could not be made."""
    limit = job.budget.size_mb
    return limit is not None and not (point is not None and (point.size_bytes or 0) <= limit * MB)


VARIANTS: dict[str, Variant] = {
    PACKED: Variant("INT8, 4 bits a weight", (packed(4.0),), 4.2, for_speed_and_size, pace=PACKED_PACE),
    "packed5-int8": Variant(
        "INT8, 5 bits a weight", (packed(5.0),), 5.2, where_four_bits_lose_much, pace=PACKED_PACE
    ),
    "packed6-int8": Variant("INT8, 6 bits a weight", (packed(6.0),), 6.2, for_little_loss, pace=PACKED_PACE),
    "packed3-int8": Variant(
        "INT8, 3 bits a weight", (packed(3.0),), 3.2, where_four_bits_serve, pace=PACKED_PACE
    ),
    "int8-dynamic": Variant("INT8 dynamic", (Quantize(mode=Mode.DYNAMIC),), 8.0, where_dynamic_is_faster),
    "int8-equalized": Variant("INT8 static, equalised", (Quantize(equalize=True),), 8.0, where_integers_cost),
    "int4-weights": Variant("4-bit weights", (QuantizeWeights(bits=4),), 5.0, for_size_alone),
    "low-rank": Variant("low rank", (Factorize(),), 32.0, where_nothing_was_healed),
    # Last, for it takes by far the longest.
    "int8-trained": Variant(
        "INT8 static, trained", (Quantize(epochs=TRAINED_PASSES),), 8.0, where_integers_cost, TRAINED_PASSES
    ),
}


MAY_DO = (PACKED, "packed3-int8", "int4-weights")  # to meet a size that INT8 misses, without healing


def add_variants(job: Job) -> None:
    """Make what is worth it of the best healed network and of the untouched one, while there is time."""
    for forms in bases(job):
        make(job, forms, list(VARIANTS))


def add_what_may_do(job: Job) -> None:
    """Before anything is healed: forms of the untouched network that may meet a size that its INT8 misses, or are small.

    Packing costs seconds and next to nothing of the metric, so that it comes before any structure where size is to be least.
    """
    forms = plain_forms(job)
    if too_large(job, forms.points.get("int8-static")):
        make(job, forms, MAY_DO)
    elif job.minimize == "size":
        make(job, forms, [PACKED])


def make(job: Job, forms: Forms, names: Sequence[str]) -> None:
    """Make those of the variants that are worth it in turn, each if there is time for it, by what the last ones showed."""
    for name in names:
        forms = Forms(forms.name, forms.points | points_of(job, forms.name))
        if not is_wanted(job, forms, name):
            continue
        with job.clock.phase("variants") as progress, job.store.claimed(f"{forms.name}-{name}") as claim:
            if claim is None or job.store.has(f"{forms.name}-{name}"):
                continue
            if seconds_for(job, VARIANTS[name]) > seconds_spare(job):
                continue
            add_variant(job, forms, name, job.telling(progress, f"{forms.name}-{name}"))
        job.keep_time()


def wanted(job: Job, forms: Forms) -> list[str]:
    """The variants of a network that are worth making and not made yet."""
    return [name for name in VARIANTS if is_wanted(job, forms, name)]


def is_wanted(job: Job, forms: Forms, name: str) -> bool:
    """Whether this one is: neither made nor failed yet, small enough, and worth it."""
    variant, point_id = VARIANTS[name], f"{forms.name}-{name}"
    limit = math.inf if job.budget.size_mb is None else job.budget.size_mb * MB
    parameters = next((p.params for p in forms.points.values() if p.params), 0)
    return (
        name not in forms.points
        and parameters * variant.bits / 8 <= limit
        and not job.store.has(point_id)
        and point_id not in job.store.failures()
        and variant.worth(job, forms)
    )


def add_variant(job: Job, forms: Forms, name: str, progress: Progress) -> None:
    """Make one and store it as a point; one that cannot be made is put on record with the reason."""
    point_id, variant, began = f"{forms.name}-{name}", VARIANTS[name], time.monotonic()
    progress(0.0, variant.label)
    start = Healed(job.task.model, (), 0.0, None) if forms.name == UNTOUCHED else recalled(job, forms.name)
    if start is None:
        return
    some = next(iter(forms.points.values()))
    plain = some.label.rpartition(", ")[0] if forms.name != UNTOUCHED else "untouched"
    point = Point(
        point_id, "candidate", f"{plain}, {variant.label}", name, params=some.params, macs=some.macs
    )
    try:
        with memory_reported():
            model, steps = made(job, variant, start, point, progress)
            recipe = Recipe(tuple(step.technique for step in steps), job.seed)
            add_point(job, point, model, steps, recipe, progress, began)
    except OutputError:  # a full disk is no fault of the form …
        raise
    except OutOfTime:  # … and neither is the time
        return
    except TenfoldError as error:
        job.store.note_failure(point_id, str(error))


def made(
    job: Job, variant: Variant, start: Healed, point: Point, progress: Progress
) -> tuple[nn.Module, tuple[Step, ...]]:
    """The network in another form, and all its steps; what it counts as goes into the point."""
    model, steps = start.model, start.steps
    for technique in variant.techniques:
        problems = technique.preflight(model, job.task, job.device)
        if problems:
            raise TenfoldError("; ".join(map(str, problems)))
        # What comes after it, the export and the scoring, takes no longer than all of plain INT8 did.
        seconds = seconds_spare(job) - seconds_plain(job)
        if seconds <= 0:
            raise OutOfTime("no time is left for it")
        applied = technique.apply(model, job.task, job.run(progress, seconds))
        model, steps = applied.model, (*steps, Step(technique, applied.resolved))
        if not is_final(technique):  # integers count as what they were
            counts = profile(model, job.task.zeros(job.device.batch))
            point.params, point.macs = counts.params, counts.macs
    return model, steps


def seconds_kept(job: Job) -> float:
    """What variants may take at the end of the job, as far as is known before anything was healed."""
    plain = plain_forms(job)
    # What will be healed is not known yet; it is taken to answer in integers as the plain network does.
    packed_as_made = decides(job)
    healed = [n for n in wanted(job, Forms("", plain.points)) if n != PACKED or not packed_as_made]
    likely = [*wanted(job, plain), *healed]
    kept, most = 0.0, SHARE_OF_TIME * job.clock.limit
    for seconds in (seconds_for(job, VARIANTS[name]) for name in likely):
        if kept + seconds <= most:  # one too slow for that is made only if time is left
            kept += seconds
    return kept


def seconds_for(job: Job, variant: Variant) -> float:
    """What a variant is expected to take; of what does not train, no more than is kept for them all.

    Packing takes what it took the last time.
    """
    if any(isinstance(each, Quantize) and each.stored_bits is not None for each in variant.techniques):
        took = [point.seconds for point in job.store.points() if point.id.startswith(f"{UNTOUCHED}-packed")]
        if took:
            return max(seconds or 0.0 for seconds in took)
    processor = torch.device("cpu")  # where rounded weights are trained
    training = variant.passes * ROUNDED_PACE * original_pass(job, processor) if variant.passes else 0.0
    return min(variant.pace * seconds_plain(job), SHARE_OF_TIME * job.clock.limit) + training


def seconds_plain(job: Job) -> float:
    """What the plain INT8 network took to make, export and score."""
    points = plain_forms(job).points
    return (points.get("int8-static") or points["fp32"]).seconds or 0.0


def bases(job: Job) -> list[Forms]:
    """The best of the healed networks and the untouched one, first the one of which the best point so far was made."""
    points = [point for point in job.store.points() if not point.by_recipe]
    mark(points, job.budget)
    healed = [point for point in points if point.finalist and point.finalist != UNTOUCHED]
    if not healed:
        return [plain_forms(job)]
    of_all, best = (
        choose(some, job.budget, job.minimize) or nearest(some, job.budget)[0] for some in (points, healed)
    )
    found = [Forms(best.finalist, points_of(job, best.finalist)), plain_forms(job)]
    return found if of_all.finalist == best.finalist else found[::-1]


def points_of(job: Job, name: str) -> dict[str, Point]:
    """The points that were made of a finalist, or of the untouched network beside the baselines, by precision."""
    return {point.precision: point for point in job.store.points() if name and point.finalist == name}


def plain_forms(job: Job) -> Forms:
    """The baselines."""
    served = [point for point in job.store.points() if point.kind == "baseline"]
    return Forms(UNTOUCHED, {("fp32" if p.id == ORIGINAL else p.precision): p for p in served})
