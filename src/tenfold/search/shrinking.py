"""`shrink`: a trained network, data and a budget in; a measured frontier and a verified artefact out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from tenfold.cost import Device, LatencyModel
from tenfold.data import Task, check_task
from tenfold.errors import BudgetError, TenfoldError
from tenfold.search.baselines import add_baselines
from tenfold.search.budget import Budget
from tenfold.search.clock import Clock, Report, silent
from tenfold.search.finalist import Healed, add_finalist, cut, heal
from tenfold.search.finalists import (
    FEWEST_PASSES,
    MOST_FINALISTS,
    Next,
    Tried,
    choose_next,
    number_of_finalists,
)
from tenfold.search.finish import finish, seconds_needed
from tenfold.search.frontier import ORIGINAL, Frontier
from tenfold.search.job import Job
from tenfold.search.point import Point
from tenfold.search.probes import seen
from tenfold.search.proposals import Judge, Proposal, propose
from tenfold.search.store import Store, identity_of
from tenfold.search.structures import Structures, scan

SHORTEST_TIME = 10.0  # seconds; less does not even measure the baselines
PROPOSALS_SHARE = 0.08  # of the time, for proposals
TRAINING_OVER_FORWARD = 3.0  # seconds of a training step over those of a forward pass
EXPORT_SECONDS = 8.0  # what cutting, exporting and scoring a finalist takes, before one was seen
SHORTEST_HEALING = 2.0  # seconds


def shrink(
    task: Task,
    budget: Budget | None = None,
    device: Device | None = None,
    *,
    out: Path | str,
    minimize: str = "latency",
    time_limit: float = 300.0,
    seed: int = 0,
    report: Report = silent,
    provenance: dict[str, Any] | None = None,
) -> Frontier:
    """Search for the network that fits `budget` on `device`, within `time_limit` seconds; write it all to `out`.

    `minimize` ("latency" or "size") says what the best point is to have least of, among those that meet the
    budget. A run that was interrupted goes on where it stopped when called again with the same arguments; a
    finished one is handed back. `report(phase, fraction, text)` is called as the work proceeds.

    Raises `BudgetError`, `DataError`, `NetworkError`, `MetricError` or `OutputError` before any long work, and
    `ExportError` or `VerificationError` where the untouched network cannot be served.
    """
    budget, device = budget or Budget(), device or Device()
    if minimize not in ("latency", "size"):
        raise BudgetError(f"minimize is 'latency' or 'size', not {minimize!r}")
    if not time_limit >= SHORTEST_TIME:
        raise BudgetError(f"the time limit is {time_limit:g} s; at least {SHORTEST_TIME:g} s are needed")
    if device.runtime != "onnxruntime":
        raise BudgetError(f"shrink serves through onnxruntime; the device asks for {device.runtime}")
    started = time.monotonic()
    task.model.eval()
    check_task(task)
    identity = identity_of(
        task,
        budget=budget.to_json(),
        device={
            "kind": device.kind,
            "runtime": device.runtime,
            "threads": device.threads,
            "batch": device.batch,
        },
        minimize=minimize,
        seed=seed,
    )
    store = Store.open(out, identity)
    clock = Clock(time_limit, before=store.spent() + time.monotonic() - started, report=report)
    job = Job(task, budget, device, minimize, store, clock, seed)
    with keeping_time(job):
        add_baselines(job)
        structures = scan(job)
        front = [] if structures is None else proposals(job, structures)
        finalists(job, front)
        return finish(job, provenance or {})


@contextmanager
def keeping_time(job: Job) -> Iterator[None]:
    """Write down the seconds spent, however the work ends, so that a resumed run knows what it has left."""
    try:
        yield
    finally:
        job.keep_time()


def proposals(job: Job, structures: Structures) -> list[Proposal]:
    """The front of structures, least damage first; stored once found."""
    stored = job.store.step("front")
    if stored is not None:
        return [Proposal.from_json(data) for data in stored]
    judge = judge_of(job, structures)
    with job.clock.phase("proposals") as progress:
        seconds = min(PROPOSALS_SHARE * job.clock.limit, max(job.clock.left() / 4, 1.0))
        journal = job.store.root / "study.journal"
        front = propose(structures.space, judge, journal, seed=job.seed, seconds=seconds, progress=progress)
    job.store.finish_step("front", [proposal.to_json() for proposal in front])
    return front


def judge_of(job: Job, structures: Structures) -> Judge:
    """Predictions fitted on the baselines and the probes, which were measured."""
    known = seen(job, structures)
    factors: dict[str, list[float]] = {}
    for entry in known:
        factors.setdefault(entry.precision, []).append(entry.size_factor)
    return Judge(
        original=job.original_profile(),
        count=structures.count,
        divergence=structures.divergence,
        latency=LatencyModel.fit([(entry.counts, entry.precision, entry.latency_ms) for entry in known]),
        budget=job.budget,
        minimize=job.minimize,
        precisions=tuple(factors),
        size_factors={precision: max(values) for precision, values in factors.items()},
    )


def finalists(job: Job, front: list[Proposal]) -> None:
    """Cut, heal, export and score finalists one after the other, each chosen by what the last ones showed."""
    tried: list[tuple[Tried, Healed | None]] = []
    overhead = EXPORT_SECONDS
    for number in range(1, MOST_FINALISTS + 1):
        name = f"c{number}"
        stored = job.store.step(f"finalist-{name}")
        if stored is not None:
            proposal = Proposal.from_json(stored["proposal"])
            tried.append((outcome(job, proposal, points_of(job, name), stored.get("healing")), None))
            continue
        with job.clock.phase("finalists") as progress, job.store.claimed(name) as claim:
            if claim is None:
                continue
            outlook = Outlook(job, front, [t for t, _ in tried], overhead)
            seconds = outlook.seconds_for_next()
            if seconds is None:
                return
            chosen = choose_next(
                front,
                [t for t, _ in tried],
                job.budget.tolerated_drop,
                half_width(job),
                job.minimize,
                partial(outlook.passes, seconds=seconds),
            )
            if chosen is None:
                return
            began = time.monotonic()

            def told(fraction: float, text: str, name: str = name) -> None:
                claim.touch()
                progress(fraction, f"{name}: {text}")

            try:
                before = start_of(job, chosen, [h for t, h in tried if t.proposal == chosen.proposal], told)
                healed = heal(job, before, seconds, told)
                points = add_finalist(job, name, healed, chosen.proposal, began, told)
                overhead = time.monotonic() - began - seconds
            except TenfoldError as error:
                # One structure that cannot be made or served must not end the search; it is on record.
                job.store.finish_step(
                    f"finalist-{name}", {"proposal": chosen.proposal.to_json(), "error": str(error)}
                )
                tried.append((Tried(chosen.proposal, 1.0, 1.0, met=False), None))
                continue
            healing = {"passes": healed.passes, "seconds_per_pass": healed.seconds_per_pass}
            job.store.finish_step(
                f"finalist-{name}", {"proposal": chosen.proposal.to_json(), "healing": healing}
            )
            tried.append((outcome(job, chosen.proposal, points, healing), healed))
            job.keep_time()


def start_of(job: Job, chosen: Next, known: list[Healed | None], progress: Any) -> Healed:
    """The network to heal: as it was left, if it is to be healed on and still at hand, else freshly cut."""
    at_hand = [healed for healed in known if healed is not None]
    return at_hand[-1] if chosen.extend and at_hand else cut(job, chosen.proposal, progress)


@dataclass(frozen=True)
class Outlook:
    """What the time that is left allows: how long the next finalist may heal, and how many passes that makes."""

    job: Job
    front: list[Proposal]
    tried: list[Tried]
    overhead: float  # seconds of cutting, exporting and scoring a finalist

    def seconds_per_pass(self, proposal: Proposal) -> float:
        """Of training on all of the training data: by what earlier finalists took, else from a forward pass."""
        paces = [t.seconds_per_pass / t.proposal.macs for t in self.tried if t.seconds_per_pass]
        if paces:
            return paces[-1] * proposal.macs
        original = self.job.store.point(ORIGINAL)
        forward = (original.seconds_per_example or 1e-3) * len(self.job.task.train)
        return TRAINING_OVER_FORWARD * forward * proposal.macs / max(self.job.original_profile().macs, 1)

    def passes(self, proposal: Proposal, seconds: float) -> float:
        """How many passes `seconds` of healing make."""
        return seconds / max(self.seconds_per_pass(proposal), 1e-9)

    def seconds_for_next(self) -> float | None:
        """How long the next finalist may heal, or None if there is no time for one."""
        changed = [proposal for proposal in self.front if not proposal.plan.untouched]
        if not changed:
            return None
        per_pass = self.seconds_per_pass(changed[0])
        left = self.job.clock.left() - seconds_needed(self.job) - self.overhead
        planned = number_of_finalists(left, per_pass + self.overhead / FEWEST_PASSES)
        seconds = (left - self.overhead * (planned - 1)) / planned
        worthwhile = per_pass * (3.0 if self.tried else 0.5)
        return seconds if seconds > max(worthwhile, SHORTEST_HEALING) else None


def points_of(job: Job, name: str) -> list[Point]:
    """The stored points of a finalist."""
    return [point for point in job.store.points() if point.id.rpartition("-")[0] == name]


def outcome(job: Job, proposal: Proposal, points: list[Point], healing: dict[str, Any] | None) -> Tried:
    """What a finalist showed: the precision that keeps the limits, else the one with the smaller drop."""
    passes, pace = (healing["passes"], healing["seconds_per_pass"]) if healing else (0.0, None)
    limits = Budget(job.budget.latency_ms, job.budget.size_mb, job.budget.memory_mb)
    usable = [p for p in points if limits.met_by(p)] or points
    if not usable:
        return Tried(proposal, 1.0, 1.0, False, passes, pace)
    point = min(usable, key=lambda p: p.validation_drop_high if p.validation_drop_high is not None else 1.0)
    drop, high = point.validation_drop, point.validation_drop_high
    met = high is not None and high <= job.budget.tolerated_drop and limits.met_by(point)
    return Tried(proposal, 1.0 if drop is None else drop, 1.0 if high is None else high, met, passes, pace)


def half_width(job: Job) -> float:
    """How wide the interval of a drop is here, from the plain INT8 network, or from the size of the set."""
    widths = [
        point.validation_drop_high - point.validation_drop
        for point in job.store.points()
        if point.id != ORIGINAL
        and point.validation_drop_high is not None
        and point.validation_drop is not None
    ]
    few = 1.96 * (0.03 / len(job.task.validation)) ** 0.5  # three in a hundred answers change
    return max([few, *widths]) if widths else few
