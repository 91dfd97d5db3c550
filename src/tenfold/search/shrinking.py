"""`shrink`: a trained network, data and a budget in; a measured frontier and a verified artefact out."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

from tenfold.compress.quantize import is_quantized
from tenfold.cost import Device
from tenfold.data import Task, check_alike, check_task
from tenfold.errors import BudgetError, NetworkError, TenfoldWarning
from tenfold.search.baselines import add_baselines
from tenfold.search.budget import Budget
from tenfold.search.clock import Clock, Report, silent
from tenfold.search.enough import may_be_enough, more_time
from tenfold.search.finalists import NAMES
from tenfold.search.finish import RESULT, finish, seconds_spare
from tenfold.search.frontier import BASELINES, ORIGINAL, PLAIN_INT8, Frontier
from tenfold.search.job import Job
from tenfold.search.recipes import add_recipes
from tenfold.search.roster import Asked, Recipes, check_recipes, enrolled, named
from tenfold.search.rounds import heal_finalists
from tenfold.search.scoring import examples_for, half_width
from tenfold.search.store import WAIT_SECONDS, Store, identity_of, read_json
from tenfold.search.structures import SCAN_SHARE, Structures, scan, scanned
from tenfold.search.variants import add_variants, add_what_may_do
from tenfold.training import place_for, training_place

FINISHED = "finished"  # the step that says so
SHORTEST_TIME = 10.0  # seconds; less does not even export a small network


def shrink(
    task: Task,
    budget: Budget | None = None,
    device: Device | None = None,
    *,
    out: Path | str,
    minimize: str = "latency",
    time_limit: float = 300.0,
    seed: int = 0,
    train_on: str | None = None,
    recipes: Recipes = (),
    report: Report = silent,
    provenance: dict[str, Any] | None = None,
) -> Frontier:
    """Search for the network that fits `budget` on `device`, within `time_limit` seconds; write it all to `out`.

    `minimize` ("latency" or "size") says what the best point is to have least of, among those that meet the
    budget. `train_on` ("cpu" or "cuda") is where networks are healed, by default a GPU if there is one; the `device`
    serves them. A run that was interrupted goes on where it stopped when called again with the same arguments; a
    finished one is handed back, or goes on if it is given more time. `report(phase, fraction, text)` is called as the work proceeds.

    `recipes`, `Recipe` objects or a dict of them by name, are made of the untouched network before the search begins,
    each a point of the frontier as any other. All together they may take half of the time that the baselines leave,
    each an equal part of what those before it left of that. Their `Distill` steps train for as many passes as there is
    time for (a note says so where they are fewer than asked); a recipe that takes longer otherwise is left out, with a
    note. A run that is called with recipes that it does not know goes on and adds them, a finished one too.

    Raises `BudgetError`, `DataError`, `NetworkError`, `MetricError`, `RecipeError` or `OutputError` before any long work, and
    `ExportError` or `VerificationError` where the untouched network cannot be served.
    """
    budget, device = budget or Budget(), device or Device()
    if minimize not in ("latency", "size"):
        raise BudgetError(f"minimize is 'latency' or 'size', not {minimize!r}")
    if isinstance(time_limit, bool) or not isinstance(time_limit, Real):
        raise BudgetError(f"time_limit is a number of seconds, not {time_limit!r}")
    if not time_limit >= SHORTEST_TIME:
        raise BudgetError(f"the time limit is {time_limit:g} s; at least {SHORTEST_TIME:g} s are needed")
    if device.runtime != "onnxruntime":
        raise BudgetError(f"shrink serves through onnxruntime; the device asks for {device.runtime}")
    started = time.monotonic()
    training_place(train_on)  # a wrong name is told before anything else
    wanted = named(recipes)
    task.model.eval()
    if is_quantized(task.model):
        raise NetworkError(
            "the network is quantised already, which leaves nothing to shrink: give the float network that it was made of "
            "(what made it so can be a recipe of the run)"
        )
    check_alike(task)
    check_task(task)
    check_recipes(wanted, task, device)
    if budget.max_drop is not None and half_width(len(task.validation)) > budget.max_drop:
        warnings.warn(too_few(task, budget.max_drop), TenfoldWarning, stacklevel=2)
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
    asked = enrolled(store, wanted)
    if is_finished(store, time_limit, asked):
        return Frontier.from_json(read_json(store.root / RESULT), store.root, task.model)
    place = place_for(task.model, task.example(2), train_on)
    clock = Clock(time_limit, before=store.spent() + time.monotonic() - started, report=report)
    job = Job(task, budget, device, minimize, store, clock, seed, place, recipes=asked)
    with keeping_time(job):
        add_baselines(job)
        add_recipes(job)
        if plain_known(job):
            add_what_may_do(job)
        if plain_known(job):
            structures = scan(job) if time_to_scan(job) else None
            job.keep_time()
            add_candidates(job, structures)
        wait_for_others(job)
        with store.waiting_for("finish"):
            frontier = finish(job, provenance or {}, more_time(job))
            note_finished(store, time_limit, asked)  # under the claim: others add theirs
        return frontier


def add_candidates(job: Job, structures: Structures | None) -> None:
    """Heal structures, make other forms of the best, and so on: forms mostly take less time than is kept for them.

    Ends where neither adds anything.
    """
    known = -1
    while in_time(job) and (now := len(job.store.points()) + len(job.store.failures())) > known:
        known = now
        if structures is not None:
            heal_finalists(job, structures)
        if in_time(job):
            add_variants(job)


def is_finished(store: Store, time_limit: float, asked: Sequence[Asked]) -> bool:
    """Whether the run came to its end with as much time, and with all these recipes."""
    finished = store.step(FINISHED)
    if finished is None or time_limit > finished["time_limit"] or not (store.root / RESULT).exists():
        return False
    return {entry.id for entry in asked} <= set(finished.get("recipes", ()))


def note_finished(store: Store, time_limit: float, asked: Sequence[Asked]) -> None:
    """Write down that it did, beside what earlier ends had."""
    before = store.step(FINISHED) or {"time_limit": time_limit}
    recipes = sorted({*before.get("recipes", ()), *(entry.id for entry in asked)})
    value: dict[str, Any] = {"time_limit": max(time_limit, before["time_limit"])}
    store.finish_step(FINISHED, value | ({"recipes": recipes} if recipes else {}))


def in_time(job: Job) -> bool:
    """Whether there is time for more than the end takes."""
    return seconds_spare(job) > 0


def time_to_scan(job: Job) -> bool:
    """Whether anything could follow a scan of blocks and widths, which a run that goes on does not do again.

    What is to follow is healing: without it, other forms of the network as it is are worth more.
    """
    if scanned(job) is not None:
        return in_time(job)
    tracing = job.store.point(ORIGINAL).seconds or 0.0  # which takes about as long as its export did
    return seconds_spare(job) > 2 * SCAN_SHARE * job.clock.limit + tracing and may_be_enough(job)


def plain_known(job: Job) -> bool:
    """Whether plain INT8 is made, or cannot be, and time is left: what is searched for is judged by it, for good.

    Waits for another process that makes it.
    """
    while job.store.in_work([PLAIN_INT8]) and in_time(job):
        time.sleep(WAIT_SECONDS)
    return (job.store.has(PLAIN_INT8) or PLAIN_INT8 in job.store.failures()) and in_time(job)


def wait_for_others(job: Job) -> None:
    """While there is time, wait for what other processes are still making: it may be the best."""
    with job.clock.phase("waiting for others") as progress:
        while job.store.in_work([*BASELINES, *NAMES, *(asked.id for asked in job.recipes)]) and in_time(job):
            progress(0.0, "another process is at work in this folder")
            time.sleep(WAIT_SECONDS)


def too_few(task: Task, max_drop: float) -> str:
    """What is said where the validation set cannot answer the question that the budget asks."""
    number = len(task.validation)
    return (
        f"the validation set of {number:,} examples is small for a max_drop of {100 * max_drop:.3g} points: the 95% "
        f"interval of a healed network's drop alone is about ±{100 * half_width(number):.2g} points, so that only "
        "networks that answer almost as the original does can be shown to meet it; "
        f"{examples_for(max_drop):,} examples or more would do"
    )


@contextmanager
def keeping_time(job: Job) -> Iterator[None]:
    """Write down the seconds spent, however the work ends, so that a resumed run knows what it has left."""
    try:
        yield
    finally:
        job.keep_time()
