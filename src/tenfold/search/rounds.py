"""The rounds of healing: one finalist after the other, each chosen by what the last ones showed."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from tenfold.errors import OutputError, TenfoldError, memory_reported
from tenfold.search.budget import Budget
from tenfold.search.candidates import candidates, judge_of, judged_again
from tenfold.search.finalist import (
    PRECISIONS,
    Healed,
    add_finalist,
    cut,
    heal,
    healing_file,
    keep,
    recalled,
)
from tenfold.search.finalists import NAMES, Next, Tried, choose_next
from tenfold.search.frontier import ORIGINAL
from tenfold.search.job import Job
from tenfold.search.outlook import Outlook
from tenfold.search.packed import PACKED
from tenfold.search.point import Point
from tenfold.search.proposals import Proposal
from tenfold.search.scoring import half_width
from tenfold.search.structures import Structures


def heal_finalists(job: Job, structures: Structures) -> None:
    """Cut, heal, export and score finalists while there is time and something sensible is left to try."""
    front = candidates(job, structures)
    tried: list[Tried] = []
    overhead: float | None = None
    for name in NAMES:
        with job.clock.phase("finalists") as progress, job.store.claimed(name) as claim:
            stored = job.store.step(f"finalist-{name}")
            if stored is not None:
                tried.append(outcome(job, name, stored))
                overhead = stored.get("overhead", overhead)
                continue
            if claim is None:  # another process heals it
                continue
            with job.store.waiting_for("choosing"):  # so that no two begin the same
                if tried:
                    judge = judge_of(job, structures, tried, overhead)
                    front = judged_again(judge, structures, certain=True)
                outlook = Outlook(job, tried, overhead)
                resumed = begun(job, name, tried)
                chosen = resumed or chosen_of(job, name, front, tried, outlook)
                if chosen is None:
                    return
                # What was begun had its share of the time: it may have all that is left to come to its end.
                proposal = chosen.proposal
                seconds = outlook.seconds_for_one(proposal) if resumed else outlook.seconds(proposal)
                if seconds <= 0 or not (resumed or outlook.has_time_for(proposal)):
                    return
                job.store.finish_step(f"begun-{name}", proposal.to_json())
            began, told = time.monotonic(), job.telling(progress, name)
            record: dict[str, Any] = {"proposal": proposal.to_json()}
            job.store.forget(name)  # what a killed process left of another structure
            try:
                with memory_reported():
                    healed = heal(job, name, start_of(job, chosen, tried, told), seconds, told)
                    keep(job, name, healed)
                    add_finalist(job, name, healed, proposal, began, told)
                record["healing"] = {
                    "passes": healed.passes,
                    "seconds_per_pass": healed.seconds_per_pass,
                    "device": job.train_on.type,
                }
                record["overhead"] = overhead = time.monotonic() - began - healed.seconds
            except OutputError:  # a full disk is no fault of the structure, and its healing is kept
                raise
            except TenfoldError as error:
                # One structure that cannot be made or served must not end the search; it is on record.
                record["error"] = str(error)
            job.store.finish_step(f"finalist-{name}", record)
            healing_file(job, name).unlink(missing_ok=True)
            tried.append(outcome(job, name, record))
            job.keep_time()


def chosen_of(
    job: Job, name: str, front: Sequence[Proposal], tried: Sequence[Tried], outlook: Outlook
) -> Next | None:
    """What to heal next of the front: there must be time for it, and nobody may have begun it under another name."""
    others = [job.store.step(f"begun-{other}") for other in NAMES if other != name]
    begun_by_others = {Proposal.from_json(step).plan for step in others if step is not None}
    taken = begun_by_others - {t.proposal.plan for t in tried}
    possible = [p for p in front if p.plan not in taken and (p.plan.untouched or outlook.has_time_for(p))]
    return choose_next(
        possible, tried, job.budget.tolerated_drop, width_here(job), job.minimize, outlook.passes
    )


def begun(job: Job, name: str, tried: Sequence[Tried]) -> Next | None:
    """What a process which was stopped had begun to heal under this name, as far as it is kept.

    A structure that was tried before is one that was being healed on.
    """
    stored = job.store.step(f"begun-{name}")
    if stored is None or not healing_file(job, name).exists():
        return None
    found = Proposal.from_json(stored)
    return Next(found, any(t.proposal.plan == found.plan for t in tried))


def start_of(job: Job, chosen: Next, tried: list[Tried], progress: Any) -> Healed:
    """The network to heal: as it was left, if it is to be healed on, else freshly cut."""
    if chosen.extend:
        last = next(t for t in reversed(tried) if t.proposal.plan == chosen.proposal.plan)
        before = recalled(job, last.name, last.passes, last.seconds_per_pass)
        if before is not None:
            return before
    return cut(job, chosen.proposal, progress)


def outcome(job: Job, name: str, record: dict[str, Any]) -> Tried:
    """What a finalist showed: of the precisions that meet everything the one with least of what is minimised, or
    else, of those that keep the limits (or of all), the one with the smallest drop."""
    proposal, healing = Proposal.from_json(record["proposal"]), record.get("healing")
    passes, pace = (healing["passes"], healing["seconds_per_pass"]) if healing else (0.0, None)
    if healing and healing.get("device", "cpu") != job.train_on.type:
        pace = None  # the run goes on elsewhere
    points = [p for p in job.store.points() if p.finalist == name and p.precision in (*PRECISIONS, PACKED)]
    limits = Budget(job.budget.latency_ms, job.budget.size_mb, job.budget.memory_mb)
    if not points:
        return Tried(proposal, 1.0, 1.0, False, passes, pace, name)

    def cost(point: Point) -> float:
        value = point.latency_ms if job.minimize == "latency" else point.size_bytes
        return math.inf if value is None else float(value)

    within = [p for p in points if limits.met_by(p)]
    good = [p for p in within if upper_drop(p) <= job.budget.tolerated_drop]
    point = min(good, key=cost) if good else min(within or points, key=upper_drop)
    drop = 1.0 if point.validation_drop is None else point.validation_drop
    return Tried(proposal, drop, upper_drop(point), bool(good), passes, pace, name, cost(point), bool(within))


def upper_drop(point: Point) -> float:
    """The upper end of the interval of the drop; a whole point of the metric where it was not measured."""
    return 1.0 if point.validation_drop_high is None else point.validation_drop_high


def width_here(job: Job) -> float:
    """How wide the interval of a drop is here, from the plain INT8 network, or from the size of the set."""
    widths = [
        point.validation_drop_high - point.validation_drop
        for point in job.store.points()
        if point.id != ORIGINAL
        and not point.by_recipe
        and point.validation_drop_high is not None
        and point.validation_drop is not None
    ]
    return max([half_width(len(job.task.validation)), *widths])
