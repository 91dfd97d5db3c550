"""Intervals against hand-worked and published figures, and their coverage by simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tenfold.cost import (
    Interval,
    bootstrap_mean,
    bootstrap_median,
    bootstrap_metric,
    paired_bootstrap,
    paired_difference_interval,
    spearman,
    wilson_interval,
)


def test_wilson_against_figures_worked_by_hand():
    """81 of 263: z² = 3.8415, centre (0.30798 + 0.0073031) / 1.0146062, as in Newcombe 1998, table I."""
    found = wilson_interval(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20).high == pytest.approx(0.1611, abs=5e-5)  # the same table
    assert wilson_interval(1, 29).low == pytest.approx(0.0061, abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_its_estimate_and_keeps_to_proportions(case):
    successes, n = case
    found = wilson_interval(successes, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low < found.high
    mirrored = wilson_interval(n - successes, n)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((found.low, found.high))


def answers(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    a = np.repeat([True, True, False, False], [both, only_a, only_b, neither])
    b = np.repeat([True, False, True, False], [both, only_a, only_b, neither])
    return a, b


def test_paired_difference_worked_by_hand():
    """Both right 794, only the first 150, only the second 86, neither 570: n = 1600 (Agresti's approval ratings).

    Adjusted shares 151/1602 and 87/1602: difference 0.0399501, standard error
    √((0.1485643 − 0.0015960) / 1602) = 0.0095782, so 0.0399501 ± 1.959964 · 0.0095782.
    """
    found = paired_difference_interval(*answers(794, 150, 86, 570))
    assert found.value == 64 / 1600
    assert (found.low, found.high) == pytest.approx((0.0211772, 0.0587230), abs=2e-6)


def test_equal_answers_still_have_a_width():
    found = paired_difference_interval(np.ones(100, bool), np.ones(100, bool))
    assert found.value == 0
    assert found.low < 0 < found.high
    assert found.high == pytest.approx(1.959964 * math.sqrt(2 / 102 / 102), rel=1e-6)


@pytest.mark.parametrize(
    ("n", "p_a_only", "p_b_only"), [(200, 0.03, 0.02), (1000, 0.01, 0.002), (100, 0.1, 0.1)]
)
def test_paired_difference_covers_the_truth(n, p_a_only, p_b_only):
    """Of 2,000 simulated test sets the interval holds the true difference in 95%, give or take."""
    generator = np.random.default_rng(0)
    draws = generator.multinomial(n, [p_a_only, p_b_only, 1 - p_a_only - p_b_only], size=2000)
    held = 0
    for only_a, only_b, rest in draws:
        found = paired_difference_interval(*answers(rest, only_a, only_b, 0))
        held += found.low <= p_a_only - p_b_only <= found.high
    assert 0.935 <= held / 2000 <= 0.985


def test_paired_difference_refuses_unequal_lengths():
    with pytest.raises(ValueError, match="same examples"):
        paired_difference_interval(np.ones(3), np.ones(4))
    with pytest.raises(ValueError, match="same examples"):
        paired_difference_interval([], [])


def accuracy(outputs, targets) -> float:
    return float((outputs.argmax(1) == targets).double().mean())


def test_paired_bootstrap_agrees_with_the_closed_form_on_accuracy():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 10, (2000,), generator=generator)
    truth = torch.nn.functional.one_hot(targets, 10).float()
    a = truth + 0.55 * torch.randn(2000, 10, generator=generator)
    b = a + 0.25 * torch.randn(2000, 10, generator=generator)
    found = paired_bootstrap(accuracy, a, b, targets, resamples=1000)
    exact = paired_difference_interval(a.argmax(1) == targets, b.argmax(1) == targets)
    assert found.value == pytest.approx(exact.value)
    assert (found.low, found.high) == pytest.approx((exact.low, exact.high), abs=0.003)
    assert paired_bootstrap(accuracy, a, b, targets, resamples=50, seed=1) == paired_bootstrap(
        accuracy, a, b, targets, resamples=50, seed=1
    )


def test_resamples_of_fewer_examples_give_the_same_width():
    generator = torch.Generator().manual_seed(1)
    targets = torch.randint(0, 10, (4000,), generator=generator)
    outputs = (
        torch.nn.functional.one_hot(targets, 10).float() + torch.randn(4000, 10, generator=generator) * 0.5
    )
    exact = wilson_interval(round(4000 * accuracy(outputs, targets)), 4000)
    for resamples, draw, within in ((2000, None, 0.08), (2000, 400, 0.08), (90, None, 0.3)):
        found = bootstrap_metric(accuracy, outputs, targets, resamples=resamples, draw=draw)
        assert found.value == pytest.approx(exact.value)
        assert found.high - found.low == pytest.approx(exact.high - exact.low, rel=within)


def test_paired_bootstrap_of_a_metric_that_fails():
    values = np.arange(10.0)
    with pytest.raises(ValueError, match="not finite on 20 of 20"):
        paired_bootstrap(lambda o, t: math.nan, values, values, values, resamples=20)
    with pytest.raises(ValueError, match="same length"):
        paired_bootstrap(accuracy, values, values[:3], values)


def test_bootstrap_of_the_mean_covers_the_truth():
    generator = np.random.default_rng(1)
    held = 0
    for number in range(300):
        found = bootstrap_mean(generator.exponential(1.0, 100), resamples=400, seed=number)
        held += found.low <= 1.0 <= found.high
    assert 0.89 <= held / 300 <= 0.98


def test_bootstrap_of_mean_and_median():
    values = np.random.default_rng(2).normal(5.0, 1.0, 400)
    mean, median = bootstrap_mean(values), bootstrap_median(values)
    assert mean.high - mean.low == pytest.approx(2 * 1.96 * values.std() / 20, rel=0.1)
    assert median.low < np.median(values) == median.value < median.high
    with pytest.raises(ValueError, match="finite"):
        bootstrap_mean([1.0, math.nan])


def test_spearman_by_hand_and_with_ties():
    assert spearman([1, 2, 3, 4, 5], [5, 6, 7, 8, 7]) == pytest.approx(0.8207827)  # ranks 1 2 3.5 5 3.5
    assert spearman([1, 2, 3], [10, 100, 1000]) == pytest.approx(1)
    with pytest.raises(ValueError, match="undefined"):
        spearman([1, 1], [1, 2])


def test_an_interval_prints_and_serialises():
    assert str(Interval(0.5, 0.25, 0.75)) == "0.5 [0.25, 0.75]"
    assert Interval(0.5, 0.25, 0.75).to_json() == {"value": 0.5, "low": 0.25, "high": 0.75}
