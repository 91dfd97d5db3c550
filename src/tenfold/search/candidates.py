"""The candidates: structures on the front of damage against cost, judged anew after everything that is measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tenfold.cost import LatencyModel
from tenfold.pacing import Pacer
from tenfold.search.damage import EXAMPLES, FIRST_GUESS
from tenfold.search.finalists import Tried
from tenfold.search.finish import seconds_spare
from tenfold.search.job import Job
from tenfold.search.outlook import Outlook
from tenfold.search.packed import decides
from tenfold.search.probes import seen
from tenfold.search.proposals import Judge, Proposal, front, propose
from tenfold.search.space import Plan
from tenfold.search.structures import Structures, seconds_of_sample

PROPOSALS_SHARE = 0.04  # of the time, for proposals from counts
RUNS_SHARE = 0.03  # of the time, for running the structures on the front


def candidates(job: Job, structures: Structures) -> list[Proposal]:
    """The front of structures, least damage first; stored once found, if any of it was run."""
    stored = job.store.step("front")
    if stored is not None:
        found = [Proposal.from_json(data) for data in stored]
        structures.moved.update({proposal.plan: proposal.divergence for proposal in found})
        return found
    judge = judge_of(job, structures)
    with job.clock.phase("proposals") as progress:
        seconds = min(PROPOSALS_SHARE * job.clock.limit, max(seconds_spare(job) / 4, 1.0))
        journal = job.store.root / "study.journal"
        found = propose(structures.space, judge, journal, seed=job.seed, seconds=seconds, progress=progress)
        limit = job.clock.spent() + min(RUNS_SHARE * job.clock.limit, seconds_spare(job) / 4)
        # The first one is run beside the original's own answers.
        pacer = Pacer(lambda: limit - job.clock.spent(), 2 * seconds_of_sample(job))
        while pacer.may_begin():
            doubtful = [p for p in found if p.plan not in structures.moved and worth_a_run(job, p)]
            if not doubtful:
                break
            pacer.takes = structures.run(doubtful[0].plan)
            found = judged_again(judge, structures)
            progress(1.0, f"{len(structures.moved)} structures run")
        found = judged_again(judge, structures, certain=True)
    if structures.moved:  # guesses alone are no base for a run that goes on with more time
        job.store.finish_step("front", [proposal.to_json() for proposal in found])
    return found


def worth_a_run(job: Job, proposal: Proposal) -> bool:
    """Whether it is changed at all, and not so much that no healing could be expected to mend it."""
    return not proposal.plan.untouched and FIRST_GUESS * proposal.damage <= job.budget.tolerated_drop


def judged_again(judge: Judge, structures: Structures, *, certain: bool = False) -> list[Proposal]:
    """The front of every structure that was counted or run so far; if `certain`, of those that were run alone.

    Where none was run, the guesses must do.
    """
    plans = dict.fromkeys([Plan(), *structures.moved, *structures.counted])
    if certain and structures.moved:
        plans = dict.fromkeys([Plan(), *structures.moved])
    return front([judge(plan) for plan in plans], judge.minimize)


def judge_of(
    job: Job, structures: Structures, tried: Sequence[Tried] = (), overhead: float | None = None
) -> Judge:
    """Predictions fitted on everything that was exported and timed so far."""
    known = seen(job, structures)
    factors: dict[str, list[float]] = {}
    for entry in known:
        factors.setdefault(entry.precision, []).append(entry.size_factor)
    outlook = Outlook(job, tried, overhead)
    return Judge(
        original=job.original_profile(),
        count=structures.count,
        divergence=structures.divergence,
        latency=LatencyModel.fit([(entry.counts, entry.precision, entry.latency_ms) for entry in known]),
        budget=job.budget,
        minimize=job.minimize,
        precisions=(*factors, *(["packed"] if "int8" in factors and decides(job) else [])),
        size_factors={precision: max(values) for precision, values in factors.items()},
        # A guess of the divergence is blunt, and mostly far too high: it is not to rule out what a run may find good.
        passes=lambda proposal: (
            outlook.examples(proposal) / EXAMPLES if proposal.plan in structures.moved else math.inf
        ),
    )
