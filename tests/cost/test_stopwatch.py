"""Operators timed in their places, and the width of an interval that calibration asks for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tenfold.cost import profile
from tenfold.cost.calibration import COVERAGE_Z, conformal_spread, smooth_quantile
from tenfold.cost.stopwatch import operator_times, places_of


class Slow(nn.Module):
    """An operator of 64 matrix products between two small ones."""

    def __init__(self) -> None:
        super().__init__()
        self.small, self.large = nn.Linear(4, 4), nn.Linear(512, 512)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.small(x).relu(), self.large(y.view(-1, 512))


def test_every_operator_of_the_count_is_timed_and_views_are_not():
    module = Slow().eval()
    inputs = (torch.zeros(1, 4), torch.zeros(8, 64, 512))
    counted = profile(module, inputs)
    assert [one.op for one in counted.operators] == ["addmm", "relu", "addmm"]
    assert counted.views >= 1
    assert counted.module_calls == 3
    times = operator_times(lambda pair: module(*pair), inputs, counted.operators, torch.device("cpu"), 3)
    assert times is not None
    assert len(times.work) == 3
    assert not times.launching
    assert times.work[2] > times.work[0]  # 134 million multiply-adds against 16


def test_other_operators_than_those_counted_are_not_mistaken_for_them():
    counted = profile(nn.ReLU(), torch.zeros(4))
    assert operator_times(torch.sigmoid, torch.zeros(4), counted.operators, torch.device("cpu"), 1) is None
    assert places_of(["relu", "add"], ["aten::view", "aten::relu", "aten::t", "aten::add"]) == [1, 3]
    assert places_of(["add", "relu"], ["aten::relu", "aten::add"]) is None
    assert places_of(["native_batch_norm"], ["aten::cudnn_batch_norm"]) == [0]


def test_a_conformal_spread_holds_nine_of_ten():
    errors = np.random.default_rng(0).normal(size=199) * 0.2
    widths = np.full(199, 0.05)
    spread = conformal_spread(np.abs(errors), widths)
    held = np.mean(np.abs(errors) <= COVERAGE_Z * np.hypot(spread, widths) + 1e-12)
    assert held == pytest.approx(180 / 199, abs=1 / 199)  # ⌈0.9·200⌉ of them, or one more or less
    assert conformal_spread(np.zeros(5), widths[:5]) == 0.0


@pytest.mark.parametrize("number", [9, 14, 19, 24, 38, 80])
@pytest.mark.parametrize("law", ["normal", "laplace"])
def test_a_conformal_spread_of_few_errors_holds_nine_of_ten_on_average(number, law):
    draw = np.random.default_rng(1)
    held = []
    for _ in range(600):
        seen, unseen = np.abs(getattr(draw, law)(size=(2, number)))
        held.append(np.mean(unseen <= COVERAGE_Z * conformal_spread(seen, np.zeros(number))))
    assert 0.89 <= np.mean(held) <= 0.95


def test_a_conformal_spread_of_very_few_errors_is_the_largest():
    errors = np.random.default_rng(2).exponential(size=18)
    assert conformal_spread(errors, np.zeros(18)) == pytest.approx(errors.max() / COVERAGE_Z)
    assert conformal_spread(np.append(errors, 0.0), np.zeros(19)) < errors.max() / COVERAGE_Z


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([1, 2, 3, 4, 10], 0.5, 3.2895999999999996),  # scipy 1.17, stats.mstats.hdquantiles
        ([0.1, 0.2, 0.4, 0.8, 1.6, 3.2], 0.8, 2.226628734560452),
        ([5.0], 0.5, 5.0),
    ],
)
def test_a_smooth_quantile_is_harrell_and_davis(values, share, expected):
    assert smooth_quantile(np.array(values), share) == pytest.approx(expected, rel=1e-5)


def test_a_quantile_beyond_the_values_is_refused():
    with pytest.raises(ValueError, match="beyond"):
        smooth_quantile(np.arange(5.0), 0.9)
