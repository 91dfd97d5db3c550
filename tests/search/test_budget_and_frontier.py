"""Budgets, quantities, and which point is marked: against values worked out by hand."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tenfold.errors import BudgetError, MetricError
from tenfold.search.budget import Budget
from tenfold.search.finish import OPEN_BYTES, held_together, message
from tenfold.search.frontier import ORIGINAL, choose, computed_in, dominates, mark, nearest
from tenfold.search.point import Point
from tenfold.search.quantities import dimensions, megabytes, milliseconds, seconds, share
from tenfold.search.scoring import Effort, effort_for, scored


def point(name: str, ms: float | None, size: int | None, drop: float | None = 0.0, **more: object) -> Point:
    high = None if drop is None else drop + 0.002
    values = {"kind": "candidate", "label": name, **more}
    return Point(
        name, latency_ms=ms, size_bytes=size, validation_drop=drop, validation_drop_high=high, **values
    )  # fmt: skip


@pytest.mark.parametrize(
    ("function", "text", "value"),
    [
        (milliseconds, "5ms", 5.0),
        (milliseconds, "800us", 0.8),
        (milliseconds, "0.1 s", 100.0),
        (megabytes, "2MB", 2.0),
        (megabytes, "340KB", 0.34),
        (megabytes, "1MiB", 1.048576),
        (share, "1%", 0.01),
        (share, "0.02", 0.02),
        (seconds, "5m", 300.0),
        (seconds, "1h", 3600.0),
        (seconds, "90", 90.0),
    ],
)
def test_quantities_are_read_in_their_units(function, text, value):
    assert function(text) == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize("text", ["", "ms", "5 parsecs", "0ms", "-1ms", "nan", "1e999ms"])
def test_an_unreadable_quantity_names_its_option(text):
    with pytest.raises(BudgetError, match="--latency"):
        milliseconds(text)


def test_shapes():
    assert dimensions("1x3x224x224") == (1, 3, 224, 224)
    with pytest.raises(BudgetError, match="--input"):
        dimensions("3x0")


@pytest.mark.parametrize("value", [0, -1.0, math.nan, math.inf, True, "5"])
@pytest.mark.parametrize("name", ["latency_ms", "size_mb", "memory_mb", "max_drop"])
def test_a_limit_that_nothing_could_meet_is_refused_by_name(name, value):
    with pytest.raises(BudgetError, match=name):
        Budget(**{name: value})


def test_a_drop_of_one_or_more_is_refused():
    with pytest.raises(BudgetError, match="max_drop"):
        Budget(max_drop=1.0)


def test_a_budget_is_judged_by_the_upper_bound_of_the_drop():
    near = point("a", 1.0, 100, 0.009)  # its upper bound is 0.011
    assert not Budget(max_drop=0.01).met_by(near)
    assert Budget(max_drop=0.0111).met_by(near)


def test_the_test_set_counts_once_it_is_scored():
    scored = point("a", 1.0, 100, 0.0, drop_high=0.03)
    assert not Budget(max_drop=0.01).met_by(scored)


@pytest.mark.parametrize(
    "limit", [{"latency_ms": 1.0}, {"size_mb": 1.0}, {"memory_mb": 1.0}, {"max_drop": 0.5}]
)
def test_what_was_not_measured_meets_no_limit(limit):
    assert not Budget(**limit).met_by(Point("a", "candidate", "a"))


def test_the_fastest_of_those_that_fit_is_chosen():
    points = [point("slow", 2.0, 10), point("fast", 1.0, 50), point("broken", 0.1, 5, 0.2)]
    assert choose(points, Budget(max_drop=0.01), "latency").id == "fast"
    assert choose(points, Budget(max_drop=0.01), "size").id == "slow"
    assert choose(points, Budget(size_mb=1e-6), "latency") is None


def test_without_a_tolerance_the_best_still_loses_at_most_a_point():
    points = [point("good", 2.0, 10), point("broken", 0.1, 5, 0.2)]
    assert choose(points, Budget(), "latency").id == "good"


def test_medians_within_noise_are_a_tie_that_the_size_decides():
    points = [point("a", 1.000, 50), point("b", 1.010, 20), point("c", 1.2, 1)]
    assert choose(points, Budget(), "latency").id == "b"


def test_a_candidate_that_buys_nothing_is_labelled_and_never_chosen():
    base = point("onnx-int8-static", 1.0, 100, 0.001, kind="baseline")
    useless, useful = point("c1", 1.1, 120, 0.0), point("c2", 0.9, 120, 0.0)
    mark([base, useless, useful], Budget())
    assert useless.note == "neither smaller nor faster than a baseline"
    assert useful.note is None
    base.validation_drop = 0.5  # a broken baseline makes nothing needless
    mark([base, useless, useful], Budget())
    assert useless.note is None
    base.validation_drop = 0.001
    useful.latency_ms, useless.latency_ms = 5.0, 1.0  # now nothing new is better than the baseline
    mark([base, useless, useful], Budget())
    assert choose([base, useless, useful], Budget(), "latency").id == "onnx-int8-static"


def test_the_nearest_point_and_the_limit_that_binds():
    points = [point("a", 9.2, 3_000_000), point("b", 12.0, 1_000_000)]
    found, limit = nearest(points, Budget(latency_ms=8, size_mb=3))
    assert (found.id, limit) == ("a", "latency_ms")


values = st.one_of(st.none(), st.floats(0.1, 10))


@given(st.lists(st.tuples(values, values, values), min_size=1, max_size=12))
def test_the_frontier_is_what_nothing_dominates(rows):
    points = [
        point(f"p{i}", ms, None if size is None else int(size * 1e6), drop)
        for i, (ms, size, drop) in enumerate(rows)
    ]
    mark(points, Budget())
    for p in points:
        expected = p.latency_ms is not None and not any(dominates(q, p) for q in points if q is not p)
        assert p.on_frontier == expected
    assert not any(dominates(p, p) for p in points)


def test_the_untouched_network_stays_on_the_frontier():
    lucky = point("c1", 0.5, 10, -0.001)
    points = [point(ORIGINAL, 1.0, 20, 0.0, kind="baseline"), point("slow", 2.0, 20, 0.0), lucky]
    mark(points, Budget())
    assert [p.on_frontier for p in points] == [True, False, True]


def test_without_a_budget_there_is_no_verdict():
    p = point("c1", 1.0, 10, 0.0)
    mark([p], Budget())
    assert p.meets_budget is None
    mark([p], Budget(latency_ms=2))
    assert p.meets_budget is True


@pytest.mark.parametrize(
    ("per_example", "constant", "defined_from", "resamples", "drawn"),
    [
        (1e-9, 0.0, 0, 500, None),
        (1e-5, 0.0, 0, 250, None),  # a hundredth of a second, for each of two networks
        (1e-4, 0.0, 0, 25, None),
        (1e-3, 0.0, 0, 20, 125),  # a resample of an eighth of them takes an eighth of the time
        (1e-3, 0.0, 400, 20, 500),  # of fewer it is not defined
        (1e-2, 0.0, 0, 20, 62),
        (0.0, 1.0, 0, 20, None),  # slow however few there are
    ],
)
def test_a_slow_metric_gets_fewer_resamples(
    monkeypatch, per_example, constant, defined_from, resamples, drawn
):
    now = 0.0

    def metric(outputs, targets):
        nonlocal now
        now += constant + per_example * len(targets)
        if len(targets) < defined_from:
            raise ValueError("a class is missing")
        return 0.5

    monkeypatch.setattr("tenfold.search.scoring.time.monotonic", lambda: now)
    effort = effort_for(metric, torch.zeros(1000, 2), torch.zeros(1000))
    assert effort.resamples == pytest.approx(resamples, abs=1)  # the clock's rounding
    assert effort.examples == drawn


def test_a_metric_that_is_not_finite_on_all_is_refused_by_name():
    def late(outputs, targets):
        return math.nan if len(targets) > 100 else 0.5

    with pytest.raises(MetricError, match="late"):
        effort_for(late, torch.zeros(200, 2), torch.zeros(200))


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("fp32", "fp32"),
        ("low-rank", "fp32"),
        ("int4-weights", "fp32"),
        ("int8-static", "int8-static"),
        ("int8-equalized", "int8-static"),
        ("int8-trained", "int8-static"),
        ("int8-dynamic", "int8-dynamic"),
    ],
)
def test_every_form_is_served_in_a_precision(form, expected):
    assert computed_in(form).value == expected


def test_an_interval_of_a_metric_that_cannot_be_resampled_names_the_metric():
    def fragile(outputs, targets):
        if len(targets.unique()) < 50:
            raise ValueError("a class is missing")
        return float(outputs.mean())

    with pytest.raises(MetricError, match="fragile is not finite on 60 of 60 resamples"):
        scored(fragile, torch.rand(50), torch.arange(50), Effort(60))


def test_a_point_survives_json(tmp_path: Path):
    original = point("c1", 1.0, 100, recipe_text="steps: []\n")
    assert Point.from_json({**original.to_json(), "unknown": 1}) == original


def test_the_message_names_the_least_that_keeps_the_other_limits():
    points = [point("broken", 0.05, 10, 0.3), point("good", 0.3, 20, 0.001)]
    budget = Budget(latency_ms=0.2, max_drop=0.01)
    best, binding = nearest(points, budget)
    text = message(budget, points, best, binding)
    assert (best.id, binding) == ("good", "latency_ms")
    assert "the fastest that keeps the other limits has 0.3 ms; you asked for 0.2 ms" in text


def test_a_best_that_missed_on_test_is_not_called_no_network():
    chosen = point("c1", 1.0, 10, 0.001)
    chosen.drop, chosen.drop_low, chosen.drop_high = 0.012, 0.009, 0.015
    text = message(Budget(max_drop=0.01), [chosen], chosen, "max_drop")
    assert text.startswith("c1, chosen on validation, missed the budget on the test set: the loss of c1")


@given(st.lists(st.one_of(st.none(), st.integers(0, 2 * int(OPEN_BYTES))), min_size=1, max_size=12))
def test_files_that_are_timed_together_fit_in_memory(sizes: list[int | None]) -> None:
    names = [ORIGINAL, *map(str, range(len(sizes) - 1))]
    points = [Point(name, "candidate", "", size_bytes=size) for name, size in zip(names, sizes, strict=True)]
    groups = held_together(points[1:] + points[:1])
    assert [point for group in groups for point in group[1:]] == points[1:]
    for group in groups:
        assert group[0] is points[0]
        assert len(group) <= 2 or sum(point.size_bytes or 0 for point in group) <= OPEN_BYTES
    for one, two in itertools.pairwise(groups):  # none could have held the next one's first
        assert sum(point.size_bytes or 0 for point in (*one, two[1])) > OPEN_BYTES
