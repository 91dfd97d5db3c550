"""`shrink`: a trained network, data and a budget in; a measured frontier and a verified artefact out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tenfold.cost import Device, LatencyModel, predicted_size
from tenfold.data import Task, check_task
from tenfold.errors import BudgetError, TenfoldError
from tenfold.search.baselines import add_baselines
from tenfold.search.budget import Budget
from tenfold.search.clock import Clock, Report, silent
from tenfold.search.finalist import Healed, add_finalist, cut, heal
from tenfold.search.finalists import MOST_FINALISTS, Next, Tried, choose_next, number_of_finalists
from tenfold.search.finish import finish, seconds_needed
from tenfold.search.frontier import ORIGINAL, Frontier
from tenfold.search.job import Job
from tenfold.search.point import Point
from tenfold.search.proposals import BITS, Judge, Proposal, propose
from tenfold.search.store import Store, identity_of
from tenfold.search.structures import Structures, scan

SHORTEST_TIME = 10.0  # seconds; less does not even measure the baselines
PROPOSALS_SHARE = 0.08  # of the time, for proposals
TRAINING_OVER_FORWARD = 3.0  # seconds of a training step over those of a forward pass
EXPORT_SECONDS = 8.0  # what exporting and scoring a finalist takes, before one was seen


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
    with job.clock.phase("proposals") as progress:
        judge = judge_of(job, structures)
        seconds = min(PROPOSALS_SHARE * job.clock.limit, max(job.clock.left() / 4, 1.0))
        journal = job.store.root / "study.journal"
        front = propose(structures.space, judge, journal, seed=job.seed, seconds=seconds, progress=progress)
    job.store.finish_step("front", [proposal.to_json() for proposal in front])
    return front


def judge_of(job: Job, structures: Structures) -> Judge:
    """Predictions fitted on the baselines, which were measured."""
    original = job.original_profile()
    points = {point.id: point for point in job.store.points()}
    served = {"fp32": points[ORIGINAL], "int8": points.get("onnx-int8-static")}
    known = {precision: point for precision, point in served.items() if point is not None}
    observations = [(original, precision, float(point.latency_ms or 0)) for precision, point in known.items()]
    factors = {
        precision: (point.size_bytes or 0) / predicted_size(original, BITS[precision])
        for precision, point in known.items()
    }
    return Judge(
        original=original,
        count=structures.count,
        divergence=structures.divergence,
        latency=LatencyModel.fit(observations),
        budget=job.budget,
        minimize=job.minimize,
        precisions=tuple(known),
        size_factors=factors,
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
            tried.append((outcome(job, proposal, points_of(job, name)), None))
            continue
        with job.clock.phase("finalists") as progress, job.store.claimed(name) as claim:
            if claim is None:
                continue
            seconds = healing_seconds(job, front, [t for t, _ in tried], overhead)
            if seconds is None:
                return
            chosen = choose_next(
                front, [t for t, _ in tried], job.budget.tolerated_drop, half_width(job), job.minimize
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
                exporting = time.monotonic()
                points = add_finalist(job, name, healed, chosen.proposal, began, told)
                overhead = time.monotonic() - exporting
            except TenfoldError as error:
                # One structure that cannot be made or served must not end the search; it is on record.
                job.store.finish_step(
                    f"finalist-{name}", {"proposal": chosen.proposal.to_json(), "error": str(error)}
                )
                tried.append((Tried(chosen.proposal, 1.0, 1.0, met=False), None))
                continue
            job.store.finish_step(f"finalist-{name}", {"proposal": chosen.proposal.to_json()})
            tried.append((outcome(job, chosen.proposal, points), healed))
            job.keep_time()


def start_of(job: Job, chosen: Next, known: list[Healed | None], progress: Any) -> Healed:
    """The network to heal: as it was left, if it is to be healed on and still at hand, else freshly cut."""
    at_hand = [healed for healed in known if healed is not None]
    return at_hand[-1] if chosen.extend and at_hand else cut(job, chosen.proposal, progress)


def healing_seconds(job: Job, front: list[Proposal], tried: list[Tried], overhead: float) -> float | None:
    """How long the next finalist may heal, or None if there is no time for one."""
    if not front:
        return None
    left = job.clock.left() - seconds_needed(job, job.store.points()) - overhead
    forward = job.store.point(ORIGINAL).seconds_per_example or 1e-3
    share = min((p.macs for p in front if not p.plan.untouched), default=0) / max(
        job.original_profile().macs, 1
    )
    per_pass = TRAINING_OVER_FORWARD * forward * max(share, 0.2) * len(job.task.train)
    planned = number_of_finalists(left, per_pass + overhead / 12)
    left -= overhead * (planned - 1)
    seconds = left / max(1, planned)
    enough = max(2.0, 2 * per_pass) if tried else max(2.0, min(per_pass, 0.05 * job.clock.limit))
    return seconds if seconds > enough else None


def points_of(job: Job, name: str) -> list[Point]:
    """The stored points of a finalist."""
    return [point for point in job.store.points() if point.id.rpartition("-")[0] == name]


def outcome(job: Job, proposal: Proposal, points: list[Point]) -> Tried:
    """What a finalist showed: the precision that keeps the limits, else the one with the smaller drop."""
    limits = Budget(job.budget.latency_ms, job.budget.size_mb, job.budget.memory_mb)
    usable = [p for p in points if limits.met_by(p)] or points
    if not usable:
        return Tried(proposal, 1.0, 1.0, met=False)
    point = min(usable, key=lambda p: p.validation_drop_high if p.validation_drop_high is not None else 1.0)
    drop, high = point.validation_drop, point.validation_drop_high
    met = high is not None and high <= job.budget.tolerated_drop and limits.met_by(point)
    return Tried(proposal, 1.0 if drop is None else drop, 1.0 if high is None else high, met)


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
