"""Timing callables against each other: warmed up until they no longer drift, then interleaved in rounds.

Interleaving is what makes a comparison fair: whatever slows the machine for a while slows all candidates, so
the ratio of two of them, paired by round, is steadier than either time. Fast candidates take turns in short
bursts whose first calls are not counted: after another candidate's turn the caches hold that one's weights, and
with many candidates every call would otherwise be timed cold, which no candidate would be on its own.
"""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import numpy as np

from tenfold.cost.statistics import Interval, bootstrap_median

WARMUP_SHARE = 0.25  # of the whole time, at most
WARMUP_WINDOW = 5  # calls in a window of the drift test
DRIFT_TOLERANCE = 0.05  # how far the medians of two windows in succession may lie apart
MAX_BURST = 16  # calls of one candidate in one round, at most
BURST_SECONDS = 5e-3  # that a burst of a fast candidate takes
# Calls at the start of a turn that are not counted, by how long a call takes: the longer, the less caches matter.
REFILLS = ((BURST_SECONDS, 2), (10 * BURST_SECONDS, 1))

Progress = Callable[[float, str], None]


@dataclass(frozen=True)
class Timing:
    """The time of one call of a candidate, in milliseconds.

    `runs` calls were timed after `warmup_runs` calls; `drift_passed` tells whether the warm-up ended because two
    windows in succession agreed, and not because its time was over. `rounds_ms` holds the median of each round;
    timings of one `measure` share their rounds, which `ratio` pairs.
    """

    median_ms: float
    q1_ms: float
    q3_ms: float
    min_ms: float
    runs: int
    warmup_runs: int
    drift_passed: bool
    rounds_ms: tuple[float, ...] = field(repr=False, default=())

    @property
    def iqr_ms(self) -> float:
        """The interquartile range."""
        return self.q3_ms - self.q1_ms

    def to_json(self) -> dict[str, Any]:
        """The figures as plain JSON, the single rounds left out."""
        return {
            "median_ms": self.median_ms,
            "iqr_ms": self.iqr_ms,
            "q1_ms": self.q1_ms,
            "q3_ms": self.q3_ms,
            "min_ms": self.min_ms,
            "runs": self.runs,
            "warmup_runs": self.warmup_runs,
            "drift_passed": self.drift_passed,
        }


def measure(
    candidates: Mapping[str, Callable[[], Any]],
    *,
    seconds: float = 10.0,
    min_runs: int = 10,
    max_runs: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Timing]:
    """Time every candidate, interleaved, in `seconds` altogether.

    A candidate is called without arguments and must have finished when it returns (on a GPU: synchronise in it).
    Warm-up: each is called until the medians of two successive windows of 5 calls differ by at most 5%, or its
    share of a quarter of the time is used. Then come rounds in which every candidate runs, in an order shuffled
    for each round, until the time is over or each has `max_runs` runs. In a round, candidates of under 5 ms run
    several times, up to 16, after two calls that are not counted (after one, if a call takes 5 to 50 ms); where the
    slowest leaves too few rounds for `min_runs`, other fast ones run several times too. Time goes before `min_runs`: a round starts only if it is
    expected to end in time, but each candidate runs at least once. Garbage collection is off meanwhile. An
    exception of a candidate is raised as it is, with a note that names the candidate.
    """
    if not candidates:
        raise ValueError("nothing to measure: give at least one candidate")
    if not seconds > 0 or min_runs < 1 or max_runs < min_runs:
        raise ValueError(
            f"seconds must be above 0 and 1 <= min_runs <= max_runs; got {seconds}, {min_runs}, {max_runs}"
        )
    start = time.perf_counter()
    deadline = start + seconds
    say = progress or (lambda fraction, text: None)
    with _no_garbage_collection():
        warm = {}
        for number, (name, candidate) in enumerate(candidates.items()):
            say(WARMUP_SHARE * number / len(candidates), f"warming up {name}")
            left = start + WARMUP_SHARE * seconds - time.perf_counter()
            warm[name] = _warm_up(name, candidate, left / (len(candidates) - number))
        samples = _rounds(candidates, warm, start, deadline, min_runs, max_runs, Random(seed), say)
    say(1.0, "measured")
    return {name: _timing(warm[name], samples[name]) for name in candidates}


def ratio(a: Timing, b: Timing, *, seed: int = 0) -> Interval:
    """How many times as long `a` takes as `b`: the median over rounds of a/b, with its 95% bootstrap interval.

    Both must come from the same call of `measure`.
    """
    if not a.rounds_ms or len(a.rounds_ms) != len(b.rounds_ms):
        raise ValueError(
            f"a ratio pairs timings of one measurement; these have {len(a.rounds_ms)} and {len(b.rounds_ms)} rounds"
        )
    return bootstrap_median(np.divide(a.rounds_ms, b.rounds_ms), seed=seed)


@dataclass(frozen=True)
class _Warm:
    runs: int
    drift_passed: bool
    call_seconds: float  # the median of the last window


def _warm_up(name: str, candidate: Callable[[], Any], seconds: float) -> _Warm:
    """Call until two windows in succession agree or `seconds` are over; at least once."""
    start = time.perf_counter()
    times: list[float] = []
    while True:
        times.append(_time(name, candidate))
        if len(times) >= 2 * WARMUP_WINDOW and len(times) % WARMUP_WINDOW == 0:
            last = float(np.median(times[-WARMUP_WINDOW:]))
            before = float(np.median(times[-2 * WARMUP_WINDOW : -WARMUP_WINDOW]))
            if abs(last - before) <= DRIFT_TOLERANCE * before:
                return _Warm(len(times), True, last)
        if time.perf_counter() - start + times[-1] > seconds:
            return _Warm(len(times), False, float(np.median(times[-WARMUP_WINDOW:])))


def _rounds(
    candidates: Mapping[str, Callable[[], Any]],
    warm: Mapping[str, _Warm],
    start: float,
    deadline: float,
    min_runs: int,
    max_runs: int,
    random: Random,
    say: Progress,
) -> dict[str, list[list[float]]]:
    """The times in seconds of every candidate, a list for each round."""
    bursts = _bursts(warm, deadline - time.perf_counter(), min_runs)
    samples: dict[str, list[list[float]]] = {name: [] for name in candidates}
    order = list(candidates)
    longest = 0.0
    while True:
        begun = time.perf_counter()
        random.shuffle(order)
        for name in order:
            for _ in range(_refills(warm[name].call_seconds) if len(order) > 1 else 0):
                _time(name, candidates[name])
            samples[name].append([_time(name, candidates[name]) for _ in range(bursts[name])])
        now = time.perf_counter()
        longest = max(longest, now - begun)
        rounds = len(samples[order[0]])
        say(min(1.0, (now - start) / (deadline - start)), f"measuring, round {rounds}")
        if now + min(longest, 1.5 * (now - begun)) > deadline or rounds * min(bursts.values()) >= max_runs:
            return samples


def _refills(call_seconds: float) -> int:
    return next((calls for limit, calls in REFILLS if call_seconds < limit), 0)


def _bursts(warm: Mapping[str, _Warm], seconds: float, min_runs: int) -> dict[str, int]:
    """Calls in a round: as many as a burst takes, or more of the fast ones where the slow ones leave few rounds.

    Those more may lengthen a round by no more than half of the slowest call.
    """
    calls = {name: max(warmed.call_seconds, 1e-9) for name, warmed in warm.items()}
    bursts = {name: max(1, min(MAX_BURST, int(BURST_SECONDS / call))) for name, call in calls.items()}
    rounds = max(1.0, seconds / sum(bursts[name] * call for name, call in calls.items()))
    if rounds >= min_runs:
        return bursts
    allowance = 0.5 * max(calls.values()) / len(calls)
    wanted = math.ceil(min_runs / rounds)
    return {
        name: max(bursts[name], min(wanted, MAX_BURST, int(allowance / call))) for name, call in calls.items()
    }


def _timing(warm: _Warm, rounds: list[list[float]]) -> Timing:
    milliseconds = 1e3 * np.concatenate([np.asarray(times) for times in rounds])
    q1, median, q3 = np.quantile(milliseconds, [0.25, 0.5, 0.75])
    return Timing(
        median_ms=float(median),
        q1_ms=float(q1),
        q3_ms=float(q3),
        min_ms=float(milliseconds.min()),
        runs=milliseconds.size,
        warmup_runs=warm.runs,
        drift_passed=warm.drift_passed,
        rounds_ms=tuple(1e3 * float(np.median(times)) for times in rounds),
    )


def _time(name: str, candidate: Callable[[], Any]) -> float:
    try:
        begun = time.perf_counter_ns()
        candidate()
        return (time.perf_counter_ns() - begun) * 1e-9
    except Exception as error:
        error.add_note(f"while measuring {name}")
        raise


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
