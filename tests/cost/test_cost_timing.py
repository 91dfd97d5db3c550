"""The rules of measuring, on a clock that the candidates move themselves: no test depends on real time."""

from __future__ import annotations

import gc
import json
from itertools import pairwise

import pytest

from tenfold.cost import measure, ratio, timing


class Clock:
    """A clock that only the candidates move, in seconds."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[str] = []

    def candidate(self, name: str, seconds):
        """A call that takes `seconds`, a number or a function of how often it was called before."""
        count = 0

        def run() -> None:
            nonlocal count
            self.now += seconds(count) if callable(seconds) else seconds
            self.calls.append(name)
            count += 1

        return run


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock.now)
    monkeypatch.setattr(timing.time, "perf_counter_ns", lambda: round(clock.now * 1e9))
    return clock


def test_times_runs_and_warm_up(clock):
    found = measure({"a": clock.candidate("a", 0.06), "b": clock.candidate("b", 0.12)}, seconds=60)
    assert found["a"].median_ms == pytest.approx(60)
    assert found["b"].median_ms == pytest.approx(120)
    assert found["a"].iqr_ms == pytest.approx(0, abs=1e-9)
    assert found["a"].warmup_runs == found["b"].warmup_runs == 10  # two windows of five agree
    assert found["a"].drift_passed
    assert found["a"].runs == found["b"].runs == len(found["a"].rounds_ms)
    assert found["a"].runs == pytest.approx(58.2 / 0.18, rel=0.01)
    assert ratio(found["b"], found["a"]).value == pytest.approx(2)
    json.dumps(found["a"].to_json(), allow_nan=False)


def test_candidates_are_interleaved_in_changing_order(clock):
    names = ["a", "b", "c"]
    measure({name: clock.candidate(name, 0.06) for name in names}, seconds=60, max_runs=50)
    rounds = [clock.calls[start : start + 3] for start in range(30, len(clock.calls), 3)]
    assert len(rounds) == 50
    assert all(sorted(one) == names for one in rounds)
    assert len({tuple(one) for one in rounds}) == 6


def test_fast_candidates_take_turns_in_bursts_that_begin_uncounted(clock):
    """`b` finds its caches cold for two calls after each turn of `a`."""
    last = []

    def seconds(_):
        cold = last[-2:] != ["b", "b"]
        last.append("b")
        return 0.003 if cold else 0.001

    def a():
        last.append("a")
        slow()

    slow = clock.candidate("a", 0.01)
    found = measure({"a": a, "b": clock.candidate("b", seconds)}, seconds=10)
    assert found["b"].median_ms == found["b"].q3_ms == pytest.approx(1)
    assert found["a"].runs == len(found["a"].rounds_ms)
    assert found["b"].runs == 5 * len(found["b"].rounds_ms)


def test_warm_up_goes_on_while_the_candidate_drifts(clock):
    """Faster by 20% for each window of five calls, until the 25th."""
    found = measure({"a": clock.candidate("a", lambda n: 0.01 * 0.8 ** min(n // 5, 5))}, seconds=10)
    assert found["a"].warmup_runs == 35
    assert found["a"].drift_passed
    assert found["a"].median_ms == pytest.approx(10 * 0.8**5)


def test_a_candidate_that_never_settles_is_marked(clock):
    found = measure({"a": clock.candidate("a", lambda n: 0.01 * 1.2 ** (n // 5 % 7))}, seconds=2)
    assert not found["a"].drift_passed
    assert found["a"].runs > 50


@pytest.mark.parametrize("slow", [0.01, 0.1, 0.4, 0.9])
def test_time_is_kept_when_one_candidate_is_slow(clock, slow):
    found = measure(
        {"fast": clock.candidate("fast", 0.001), "slow": clock.candidate("slow", slow)}, seconds=3
    )
    assert clock.now <= 3 * 1.1
    assert found["slow"].runs >= 1
    assert found["fast"].runs >= found["slow"].runs
    assert len(found["fast"].rounds_ms) == len(found["slow"].rounds_ms)


def test_fast_candidates_run_in_bursts_beside_a_slow_one(clock):
    found = measure({"fast": clock.candidate("fast", 0.001), "slow": clock.candidate("slow", 0.4)}, seconds=4)
    assert found["slow"].runs < 10 <= found["fast"].runs


def test_every_candidate_runs_even_without_time(clock):
    found = measure({"a": clock.candidate("a", 5.0), "b": clock.candidate("b", 7.0)}, seconds=1)
    assert (found["a"].runs, found["b"].runs) == (1, 1)
    assert found["b"].median_ms == pytest.approx(7000)


def test_a_ratio_is_paired_by_round(clock):
    """The machine slows down threefold for a while: each time moves, the ratio does not."""

    def load() -> float:
        return 3.0 if 0.3 < clock.now < 0.8 else 1.0

    found = measure(
        {
            "a": clock.candidate("a", lambda n: 0.002 * load()),
            "b": clock.candidate("b", lambda n: 0.001 * load()),
        },
        seconds=1,
    )
    paired = ratio(found["a"], found["b"])
    assert (paired.low, paired.value, paired.high) == pytest.approx((2, 2, 2))
    assert found["a"].iqr_ms > 1


def test_ratio_refuses_timings_of_different_measurements(clock):
    first = measure({"a": clock.candidate("a", 0.001)}, seconds=1, max_runs=20)["a"]
    second = measure({"a": clock.candidate("a", 0.001)}, seconds=1, max_runs=30)["a"]
    with pytest.raises(ValueError, match="one measurement"):
        ratio(first, second)


def test_an_exception_names_the_candidate_and_restores_garbage_collection(clock):
    def fail() -> None:
        raise KeyError("x")

    assert gc.isenabled()
    with pytest.raises(KeyError) as caught:
        measure({"ok": clock.candidate("ok", 0.001), "broken": fail}, seconds=1)
    assert caught.value.__notes__ == ["while measuring broken"]
    assert gc.isenabled()


def test_garbage_collection_is_off_meanwhile(clock):
    seen = []

    def look() -> None:
        clock.now += 0.01
        seen.append(gc.isenabled())

    measure({"a": look}, seconds=1)
    assert not any(seen)


def test_progress_rises_to_the_end(clock):
    fractions = []
    measure(
        {"a": clock.candidate("a", 0.01)},
        seconds=1,
        progress=lambda fraction, text: fractions.append(fraction),
    )
    assert all(before <= after for before, after in pairwise(fractions))
    assert fractions[-1] == 1.0


@pytest.mark.parametrize(
    "bad", [{"seconds": 0}, {"min_runs": 0}, {"min_runs": 5, "max_runs": 4}, {"seconds": float("nan")}]
)
def test_bad_options(bad):
    with pytest.raises(ValueError, match="seconds must be above 0"):
        measure({"a": lambda: None}, **bad)
    with pytest.raises(ValueError, match="nothing to measure"):
        measure({})
