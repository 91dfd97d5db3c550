"""What is said where there was no time to heal a structure: where the time went, and how much would have been enough."""

from __future__ import annotations

import math
from dataclasses import replace

from tenfold.report.wording import duration
from tenfold.search.candidates import PROPOSALS_SHARE, RUNS_SHARE
from tenfold.search.clock import Clock
from tenfold.search.finalists import FEWEST_PASSES, NAMES
from tenfold.search.finish import measure_seconds
from tenfold.search.frontier import BASELINES, ORIGINAL
from tenfold.search.job import Job
from tenfold.search.outlook import FEWEST_FIRST, SHORTEST_HEALING, TEACHER_VIEWS, TRIALS_SHARE, Outlook
from tenfold.search.pace import TRAINING_OVER_FORWARD, original_pass
from tenfold.search.probes import SHARE_OF_TIME
from tenfold.search.proposals import Proposal
from tenfold.search.recipes import SHARE as RECIPES_SHARE
from tenfold.search.space import Plan
from tenfold.search.structures import SCAN_SHARE, scanned

UNMADE = 3.0  # times as long as the original a baseline takes that was not made: to be made INT8, exported and scored
SIZE = 0.5  # of the original's multiply-adds and parameters, that the network has for which time is estimated
DOUBTFUL = (
    1.5  # times the time: where the estimate is beyond, looking for structures would take time for nothing
)
STEPS = 60  # of the search for a time; each takes a quarter of what is missing away, or more


def more_time(job: Job) -> list[str]:
    """A note where no structure was healed for want of time; none where one was tried, or nothing can be pruned."""
    tried = any(job.store.step(f"finalist-{name}") is not None for name in NAMES)
    if tried or "pruning" in job.store.failures():
        return []
    begun, healed = (enough_for(job, passes) for passes in (FEWEST_FIRST, FEWEST_PASSES))
    if begun <= job.clock.limit:  # there was time, and nothing worth it
        return []
    baselines = sum(point.seconds or 0.0 for point in job.store.points() if point.kind == "baseline")
    first, all_passes = in_minutes(begun), in_minutes(healed)
    trained = f"train it for {FEWEST_PASSES} passes over the data"
    rest = f"and to {trained}" if first == all_passes else f"--time {all_passes} to {trained}"
    return [
        f"no smaller network was healed: the baselines took {duration(baselines)} of {duration(job.clock.limit)}; about "
        f"--time {first} would have been enough to begin with one of half the size, {rest} (with the same --out, what is "
        "done is kept)"
    ]


def may_be_enough(job: Job) -> bool:
    """Whether a network of half the size may be healed in the time, by an estimate that is not taken at its word."""
    return enough_for(job, FEWEST_FIRST) <= DOUBTFUL * job.clock.limit


def enough_for(job: Job, passes: float) -> float:
    """Seconds, as a time limit, with which a network of half the size could be healed for so many passes.

    By what the baselines took and what the original's training takes, measured or guessed.
    """
    per_pass = original_pass(job)
    training = passes * SIZE * per_pass + min(passes, TEACHER_VIEWS) * per_pass / TRAINING_OVER_FORWARD
    needed = max(training / (1 - TRIALS_SHARE), SHORTEST_HEALING)
    limit = job.clock.limit
    for _ in range(STEPS):
        lack = needed - seconds_to_heal(job, limit)
        if lack < 1.0:
            break
        limit += lack
    return limit


def seconds_to_heal(job: Job, limit: float) -> float:
    """How long a first finalist could heal in a run that goes on with that limit."""
    counts = job.original_profile()
    macs, params = round(SIZE * counts.macs), round(SIZE * counts.params)
    # Nothing here asks for its latency, bytes, divergence, damage or excess.
    half = Proposal(Plan(), "int8", macs, params, 0.0, 0.0, 0.0, 0, 0.0, 0.0, 0.0)
    later = replace(job, clock=Clock(limit, before=job.clock.spent() + seconds_ahead(job, limit)))
    return Outlook(later, ()).seconds_for_one(half)


def seconds_ahead(job: Job, limit: float) -> float:
    """What comes before healing and is not done yet: baselines, and the parts of the search, each with all of its share."""
    original = job.store.point(ORIGINAL).seconds or 0.0
    unmade = [name for name in BASELINES if not job.store.has(name) and name not in job.store.failures()]
    ahead = UNMADE * original * len(unmade) + measure_seconds(job)  # this run comes to its end first
    anew = scanned(replace(job, clock=Clock(limit))) is None
    if anew:
        ahead += original + 2 * SCAN_SHARE * limit  # tracing takes about as long as the export
    if job.store.step("probes") is None:
        ahead += SHARE_OF_TIME * limit
    if anew or job.store.step("front") is None:
        ahead += (PROPOSALS_SHARE + RUNS_SHARE) * limit
    made = {*job.store.failures(), *(point.id for point in job.store.points())}
    if any(asked.id not in made for asked in job.recipes):  # those that were late are tried again
        ahead += RECIPES_SHARE * max(limit - job.clock.spent() - ahead, 0.0)
    return ahead


def in_minutes(seconds: float) -> str:
    """As `--time` takes it, rounded up: `9m`."""
    return f"{math.ceil(seconds / 60)}m"
