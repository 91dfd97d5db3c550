"""Proposals: structures that cost little for the damage they do, from counts and predictions alone.

A multi-objective search (Optuna's TPE) over the knobs of the space; nothing is trained, exported or timed here.
The study lives in a journal file, so that several processes, on one machine or many, add to the same one.
"""

from __future__ import annotations

import logging
import math
import time
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tenfold.cost import LatencyModel, Prediction, Profile, predicted_size
from tenfold.pacing import Pacer
from tenfold.search.budget import MB, Budget
from tenfold.search.damage import damage
from tenfold.search.space import NARROWEST, STEP, Plan, Space, stage_of

TRIALS = 120
START_LEVELS = (0.875, 0.75, 0.5, 0.375, 0.25)  # of depth, of width, and of both, tried first
START_BLOCKS = (1, 2, 3, 4, 6, 8, 12, 16)  # the most dispensable of all stages, tried first as well
RANDOM_TRIALS = 8  # after those, before the search is guided
BITS = {"fp32": 32, "int8": 8}
PACKED_BITS = 4.2  # of a weight of INT8 that is stored in four bits, multiples of scales included
VIOLATION_WEIGHT = 4.0
# Where a limit rules the original out: the study's few trials may all end well below it. For a ResNet-20 in 0.17 MB, 42
# of them found nothing of less than 1.9 units of damage; giving back found 1.0 in seven more, of the same time.
RESTORED_SHARE = 0.25  # of the time, for giving back …
MOST_RESTORED = 4  # … to so many of the mildest that keep the limits
SIZE_MARGIN = 1.03  # bytes come out up to so much above their prediction; a limit is not to be missed by that


@dataclass(frozen=True)
class Proposal:
    """A structure with what is counted and predicted of it. `excess` is by how much it breaks the limits."""

    plan: Plan
    precision: str
    macs: int
    params: int
    latency_ms: float
    latency_low_ms: float
    latency_high_ms: float
    size_bytes: int
    divergence: float
    damage: float
    excess: float

    def to_json(self) -> dict[str, Any]:
        """The proposal as plain data."""
        return {**asdict(self), "plan": self.plan.to_json()}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Proposal:
        """The inverse of `to_json`."""
        return cls(**{**data, "plan": Plan.from_json(data["plan"])})

    def cost(self, minimize: str) -> float:
        """What is to be small."""
        return self.latency_ms if minimize == "latency" else float(self.size_bytes)


@dataclass(frozen=True)
class Judge:
    """Turns a plan into a proposal, in the first of the `precisions` that serves it best. `count(plan)` gives its exact counts, `divergence(plan)` a guess in nats."""

    original: Profile
    count: Callable[[Plan], Profile]
    divergence: Callable[[Plan], float]
    latency: LatencyModel
    budget: Budget
    minimize: str
    precisions: Sequence[str]
    size_factors: dict[str, float]  # measured over predicted, of the baselines
    # Of healing that there is time for, over as many examples as `damage` counts by.
    passes: Callable[[Proposal], float] = lambda proposal: math.inf

    def __call__(self, plan: Plan) -> Proposal:
        counts = self.original if plan.untouched else self.count(plan)
        loss = self.divergence(plan)
        options = [self._in(precision, plan, counts, loss) for precision in self.precisions]
        best = min(options, key=lambda option: (option.excess, option.cost(self.minimize)))
        whole = self.original
        units = damage(best.macs, best.params, whole.macs, whole.params, loss, self.passes(best))
        return replace(best, damage=units)

    def _in(self, precision: str, plan: Plan, counts: Profile, loss: float) -> Proposal:
        computed = "int8" if precision == "packed" else precision
        latency: Prediction = self.latency.predict(counts, computed)
        size = round(
            predicted_size(counts, BITS[computed]) * self.size_factors.get(computed, 1.0) * SIZE_MARGIN
        )
        if precision == "packed":  # all but the weights is as in INT8
            size -= round(counts.params * (BITS["int8"] - PACKED_BITS) / 8)
        over = [
            value / limit - 1
            for value, limit in ((latency.ms, self.budget.latency_ms), (size / MB, self.budget.size_mb))
            if limit is not None
        ]
        return Proposal(
            plan, precision, counts.macs, counts.params, latency.ms, latency.low, latency.high, size, loss,
            0.0, max([0.0, *over]),
        )  # fmt: skip


def propose(
    space: Space,
    judge: Judge,
    journal: Path,
    *,
    seed: int,
    seconds: float,
    progress: Callable[[float, str], None] = lambda fraction, text: None,
) -> list[Proposal]:
    """The front of damage against cost, least damage first; the untouched structure is always its start."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(logging.ERROR)
    made: dict[Plan, Proposal] = {Plan(): judge(Plan())}
    if space.empty:
        return list(made.values())
    started = time.monotonic()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna warns of everything that it calls experimental
        first = starting_points(space)
        study = optuna.create_study(
            study_name="structures",
            storage=JournalStorage(JournalFileBackend(str(journal))),
            directions=["minimize", "minimize"],
            sampler=optuna.samplers.TPESampler(
                seed=seed, multivariate=True, n_startup_trials=len(first) + RANDOM_TRIALS
            ),
            load_if_exists=True,
        )
        if not study.get_trials(deepcopy=False):
            for parameters in first:
                study.enqueue_trial(parameters)

        def objective(trial: Any) -> tuple[float, float]:
            plan = suggested(space, trial)
            if plan not in made:
                made[plan] = judge(plan)
            found = made[plan]
            penalty = 1 + VIOLATION_WEIGHT * found.excess
            return found.cost(judge.minimize) * penalty, found.damage * penalty

        restoring = made[Plan()].excess > 0
        share = 1 - RESTORED_SHARE if restoring else 1.0
        pacer = Pacer(lambda: started + share * seconds - time.monotonic())
        while len(study.get_trials(deepcopy=False)) < TRIALS and pacer.may_begin():
            with pacer.one():
                study.optimize(objective, n_trials=1)
            done = max(len(made) / TRIALS, (time.monotonic() - started) / seconds)
            progress(min(done, 1.0), f"{len(made)} structures")
        # What other processes, or an earlier one, tried counts as well.
        reading = Pacer(lambda: started + 2 * seconds - time.monotonic(), pacer.takes)
        for trial in study.get_trials(deepcopy=False):
            if trial.values is not None and reading.may_begin():
                plan = suggested(space, optuna.trial.FixedTrial(trial.params))
                if plan not in made:
                    made[plan] = judge(plan)
    if restoring:
        restore(space, judge, made, Pacer(lambda: started + seconds - time.monotonic(), pacer.takes))
    return front(list(made.values()), judge.minimize)


def restore(space: Space, judge: Judge, made: dict[Plan, Proposal], pacer: Pacer) -> None:
    """Give the mildest structures that keep the limits back what they can, part after part, and add to `made` what is tried.

    What moves the answers most without it comes back first, as long as the limits are kept and less damage is done.
    """
    kept = sorted((p for p in made.values() if p.excess <= 0), key=lambda p: p.damage)
    for found in kept[:MOST_RESTORED]:
        best: Proposal | None = found
        while best is not None:
            before, best = best, None
            for plan in sorted(space.milder(before.plan), key=judge.divergence):
                if plan not in made:
                    if not pacer.may_begin():
                        return
                    with pacer.one():
                        made[plan] = judge(plan)
                if made[plan].excess <= 0 and made[plan].damage < before.damage:
                    best = made[plan]
                    break


def starting_points(space: Space) -> list[dict[str, float]]:
    """Depth alone, width alone and both, at a few levels; all blocks gone; and the few that matter least."""
    points: list[dict[str, float]] = []
    for level in START_LEVELS:
        depth = {f"drop {stage}": round((1 - level) * len(blocks)) for stage, blocks in space.stages.items()}
        whole = {f"drop {stage}": 0 for stage in space.stages}
        width = {f"keep {group}": level for group in space.groups}
        full = {f"keep {group}": 1.0 for group in space.groups}
        half = {f"keep {group}": (1 + level) / 2 // STEP * STEP for group in space.groups}
        points += [{**depth, **full}, {**whole, **width}, {**depth, **half}, {**depth, **width}]
    wide = {f"keep {group}": 1.0 for group in space.groups}
    points.append({f"drop {stage}": len(blocks) for stage, blocks in space.stages.items()} | wide)
    for number in START_BLOCKS:
        if number <= len(space.dispensable):
            gone = Counter(stage_of(block) for block in space.dispensable[:number])
            points.append({f"drop {stage}": gone[stage] for stage in space.stages} | wide)
    return points


def suggested(space: Space, trial: Any) -> Plan:
    """The plan of a trial's parameters."""
    dropped = {
        stage: trial.suggest_int(f"drop {stage}", 0, len(blocks)) for stage, blocks in space.stages.items()
    }
    kept = {group: trial.suggest_float(f"keep {group}", NARROWEST, 1.0, step=STEP) for group in space.groups}
    return space.plan(dropped, kept)


def front(proposals: Sequence[Proposal], minimize: str) -> list[Proposal]:
    """Those that keep the limits and that no other beats in damage and cost, least damage first.

    Where none keeps the limits, the front of those that break them least.
    """
    least = min(proposal.excess for proposal in proposals)
    kept = [proposal for proposal in proposals if proposal.excess <= max(least, 0.0) + 1e-9]
    found: list[Proposal] = []
    for proposal in sorted(kept, key=lambda p: (p.damage, p.cost(minimize))):
        if not found or proposal.cost(minimize) < found[-1].cost(minimize):
            found.append(proposal)
    return found
