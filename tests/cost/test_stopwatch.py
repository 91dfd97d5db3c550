"""Operators timed in their places, and the width of an interval that calibration asks for."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from tenfold.cost import profile
from tenfold.cost.calibration import COVERAGE_Z, conformal_spread
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
    assert held == pytest.approx(180 / 199)  # ⌈0.9·200⌉ of them
    assert conformal_spread(np.zeros(5), widths[:5]) == 0.0
