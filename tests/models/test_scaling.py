"""Scaling by rule: the paper's arithmetic, equal costs, and the grid search."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tenfold.errors import NetworkError
from tenfold.models import create
from tenfold.models.mobile_plan import planned
from tenfold.models.mobile_tables import EFFICIENTNET
from tenfold.models.scaling import (
    COMPOUND,
    DEPTH_ONLY,
    Rule,
    Scaled,
    depth_only,
    scale,
    search_rule,
    width_only,
)

SMALL = {"resolution": 32, "num_classes": 10}


def test_the_published_arithmetic() -> None:
    assert COMPOUND.growth == pytest.approx(1.92, abs=0.005)
    third = scale("efficientnet_b0", 3)
    assert (third.depth, third.width) == (pytest.approx(1.2**3), pytest.approx(1.1**3))
    assert third.resolution == 341
    assert math.ceil(18 * third.depth) == 32
    assert round(32 * third.width) == 43


def test_what_scale_makes_is_what_create_makes() -> None:
    scaled = scale("mobilenet_v1", 2, width=0.25, in_channels=1, **SMALL)
    wanted = create(
        "mobilenet_v1",
        depth=1.44,
        width=0.25 * 1.1**2,
        resolution=42,
        small_stem=True,
        num_classes=10,
        in_channels=1,
    )
    made = scaled.create()
    assert {n: v.shape for n, v in made.state_dict().items()} == {
        n: v.shape for n, v in wanted.state_dict().items()
    }
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        made.eval()(torch.zeros(1, 1, 42, 42))
    assert scaled.macs == counter.get_total_flops() // 2
    assert scaled.params == sum(p.numel() for p in made.parameters())


def test_a_small_stem_stays_small() -> None:
    assert scale("mobilenet_v1", 10, gamma=1.2, **SMALL).create().plan.stride == 8
    assert scale("mobilenet_v1", 0).create().plan.stride == 32


@settings(max_examples=30)
@given(st.floats(0.1, 3.0), st.floats(1.0, 2.0), st.floats(0.2, 3.0), st.floats(1.0, 2.0))
def test_rounding_never_makes_a_wider_or_deeper_network_smaller(
    width: float, wider: float, depth: float, deeper: float
) -> None:
    small, large = planned(EFFICIENTNET, width, depth), planned(EFFICIENTNET, width * wider, depth * deeper)
    assert small.stem <= large.stem
    assert small.head <= large.head
    for few, many in zip(small.stages, large.stages, strict=True):
        assert len(few) <= len(many)
        assert all(
            a.hidden <= b.hidden and a.out_channels <= b.out_channels for a, b in zip(few, many, strict=False)
        )


def test_single_dimensions_reach_the_same_cost() -> None:
    start = scale("mobilenet_v1", 0, width=0.25, **SMALL)
    wanted = 1.8 * start.macs
    wide = width_only("mobilenet_v1", wanted, width=0.25, **SMALL)
    assert (wide.depth, wide.resolution) == (1.0, 32)
    assert wide.macs == pytest.approx(wanted, rel=0.15)
    deep = depth_only("mobilenet_v1", wanted, width=0.25, **SMALL)
    assert (deep.width, deep.resolution) == (0.25, 32)
    assert deep.macs == pytest.approx(wanted, rel=0.15)
    nearest = min(
        abs(scale("mobilenet_v1", phi, 2, 1, 1, width=0.25, **SMALL).macs - wanted) for phi in (0.5, 1.0)
    )
    assert abs(deep.macs - wanted) <= nearest
    assert depth_only("mobilenet_v1", start.macs, width=0.25, **SMALL).depth == 1.0


def test_the_grid_search_finds_the_best_of_equal_cost() -> None:
    seen: list[Scaled] = []

    def evaluate(scaled: Scaled) -> float:
        seen.append(scaled)
        return (
            math.nan if len(seen) == 3 else -abs(scaled.rule.beta - 1.2)
        )  # a run that failed is never the best

    found = search_rule("mobilenet_v1", evaluate, tolerance=0.15, step=0.15, **SMALL)
    assert len(found.trials) == len(seen) == 12
    assert len({(trial.scaled.params, trial.scaled.resolution) for trial in found.trials}) == 12
    assert all(trial.scaled.macs == pytest.approx(2 * found.base_macs, rel=0.15) for trial in found.trials)
    scores = [trial.score for trial in found.trials if math.isfinite(trial.score)]
    assert found.best.score == max(scores)


def never(scaled: Scaled) -> float:
    raise AssertionError("nothing may be trained")


def test_what_cannot_be_scaled_is_refused_before_training() -> None:
    with pytest.raises(NetworkError, match="resnet20 cannot be scaled in depth: it has no such option"):
        scale("resnet20", 1)
    with pytest.raises(NetworkError, match=r"alpha must be at least 1, not 0\.5"):
        Rule(0.5, 1.0, 1.0)
    with pytest.raises(NetworkError, match="phi must be a finite number"):
        scale("mobilenet_v1", math.inf)
    with pytest.raises(NetworkError, match="at least 12 points, not 3"):
        search_rule("mobilenet_v1", never, points=3)
    with pytest.raises(NetworkError, match=r"only \d+ distinct networks cost 1.1 times mobilenet_v1"):
        search_rule("mobilenet_v1", never, growth=1.1, step=0.5, **SMALL)
    with pytest.raises(NetworkError, match="are less, or over 1024 times more"):
        depth_only("mobilenet_v1", 1e3, **SMALL)
    assert DEPTH_ONLY.growth == 2


def test_a_network_that_could_not_be_built_is_refused_with_its_size() -> None:
    words = r"efficientnet_b0 at phi 99 would have about 10\^36.6 multiply-adds, .* 10\^8.4 pixels a side; .* at most 15.5"
    with pytest.raises(NetworkError, match=words):
        scale("efficientnet_b0", 99)
    with pytest.raises(NetworkError, match=r"parameters: take a phi of at most"):
        scale("efficientnet_b0", 1e6, 1.0, 2.0, 1.0)
    with pytest.raises(NetworkError, match=r"pixels a side: choose less"):
        scale("efficientnet_b0", 1, 1.0, 1.1, 1.0, resolution=20_000)
    with pytest.raises(NetworkError, match="efficientnet_b0: width must be a finite number, not '2'"):
        scale("efficientnet_b0", 1, width="2")
    with pytest.raises(NetworkError, match="efficientnet_b0: width must be a finite number, not '2'"):
        depth_only("efficientnet_b0", 1e9, width="2")
    # By 15.5 the rule's growth, from the published figure, is still below the limit; by 15.6 it is not.
    assert 385_814_752 * COMPOUND.growth**15.5 < 1e13 < 385_814_752 * COMPOUND.growth**15.6
    assert scale("efficientnet_b0", 15.5).resolution == round(224 * 1.15**15.5)


def test_a_phi_below_zero_shrinks_until_nothing_is_left_and_a_truth_value_is_no_phi() -> None:
    start, small = scale("mobilenet_v1", 0, **SMALL), scale("mobilenet_v1", -1, **SMALL)
    assert (small.depth, small.width) == (1.2**-1, 1.1**-1)
    assert small.macs < start.macs
    assert small.params < start.params
    with pytest.raises(NetworkError, match=r"efficientnet_b0 at phi -20: .* rounds to nothing.* nearer to 0"):
        scale("efficientnet_b0", -20)
    for phi in (-1e308, -(10**400), True, "1"):
        with pytest.raises(NetworkError, match="phi"):
            scale("efficientnet_b0", phi)  # type: ignore[arg-type]
    with pytest.raises(NetworkError, match="phi must be a finite number, not True"):
        scale("efficientnet_b0", True)
