"""Scaling a network by rule: depth, width and resolution together, or one of them alone.

Tan and Le, 2019 (EfficientNet), arXiv:1905.11946, equation 3: depth α^φ, width β^φ, resolution γ^φ, where
α·β²·γ² is about how much the multiply-adds grow with each unit of φ. The networks' own rounding applies: channels
to eights, never a tenth below (`nn.round_channels`), blocks of a stage upwards, resolution to the nearest pixel.
The published B1 to B7 come from a table beside this rule, not from it: `create("efficientnet_b3")` is exact.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tenfold.cost import profile
from tenfold.errors import NetworkError
from tenfold.models.catalogue import create, describe, options
from tenfold.models.mobile_plan import SMALL

HIGHEST_PHI = 16.0  # where `scale_to` stops looking; the largest published network, B7, is at about 7
PHI_STEPS = 24  # halvings of that range: finer than one pixel or one group of channels


@dataclass(frozen=True)
class Rule:
    """How much depth (alpha), width (beta) and resolution (gamma) grow with each unit of φ."""

    alpha: float
    beta: float
    gamma: float

    def __post_init__(self) -> None:
        for name in ("alpha", "beta", "gamma"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 1):
                raise NetworkError(f"{name} must be at least 1, not {value}")

    @property
    def growth(self) -> float:
        """α·β²·γ²: how many times the multiply-adds grow with each unit of φ, before rounding."""
        return self.alpha * self.beta**2 * self.gamma**2


COMPOUND = Rule(1.2, 1.1, 1.15)
DEPTH_ONLY = Rule(2.0, 1.0, 1.0)
WIDTH_ONLY = Rule(1.0, math.sqrt(2.0), 1.0)
RESOLUTION_ONLY = Rule(1.0, 1.0, math.sqrt(2.0))


@dataclass(frozen=True)
class Scaled:
    """A network at some φ: `depth` and `width` multiply those of `base`, `resolution` is in pixels.

    `chosen` are further options of `create`.
    """

    base: str
    phi: float
    rule: Rule
    depth: float
    width: float
    resolution: int
    chosen: dict[str, Any] = field(default_factory=dict)

    def create(self) -> nn.Module:
        """The network, with random weights."""
        scales = {"depth": self.depth, "width": self.width, "resolution": self.resolution}
        given = {name: value for name, value in scales.items() if name in options(self.base)}
        return create(self.base, **given, **self.chosen)

    @cached_property
    def counts(self) -> tuple[int, int]:
        """Parameters and multiply-adds of one image, counted after all rounding."""
        channels = self.chosen.get("in_channels", 3)
        with torch.device("meta"):
            counted = profile(self.create(), torch.empty(1, channels, self.resolution, self.resolution))
        return counted.params, counted.macs

    @property
    def params(self) -> int:
        return self.counts[0]

    @property
    def macs(self) -> int:
        return self.counts[1]


def scale(
    base: str, phi: float, alpha: float = 1.2, beta: float = 1.1, gamma: float = 1.15, **chosen: Any
) -> Scaled:
    """The network `base` at φ: depth α^φ, width β^φ, resolution γ^φ times its own.

    `chosen` are options of `create`; `width`, `depth` and `resolution` among them are those of φ = 0. A small stem
    stays small, whatever the resolution grows to. Raises `NetworkError` if the network lacks a dimension that the
    rule scales.
    """
    rule = Rule(alpha, beta, gamma)
    if not math.isfinite(phi):
        raise NetworkError(f"phi must be a finite number, not {phi}")
    allowed = options(base)
    for option, factor in (("depth", alpha), ("width", beta), ("resolution", gamma)):
        if factor != 1 and option not in allowed:
            raise NetworkError(f"{base} cannot be scaled in {option}: it has no such option")
    kept = dict(chosen)
    side = kept.pop("resolution", None) or describe(base).resolution
    if "small_stem" in allowed and kept.get("small_stem") is None:
        kept["small_stem"] = side < SMALL
    return Scaled(
        base=base,
        phi=phi,
        rule=rule,
        depth=kept.pop("depth", 1.0) * alpha**phi,
        width=kept.pop("width", 1.0) * beta**phi,
        resolution=max(1, round(side * gamma**phi)),
        chosen=kept,
    )


def scale_to(base: str, macs: float, rule: Rule = COMPOUND, **chosen: Any) -> Scaled:
    """`base` scaled by `rule` to the φ ≥ 0 whose counted multiply-adds come nearest to `macs`.

    Two networks that were scaled by different rules to one `macs` can be compared at equal cost, as far as
    rounding lets them: depth grows by whole blocks, so `.macs` of the result says what was reached. Raises
    `NetworkError` if `macs` lies outside what the rule reaches.
    """

    def at(phi: float) -> Scaled:
        return scale(base, phi, rule.alpha, rule.beta, rule.gamma, **chosen)

    if rule.growth == 1:
        raise NetworkError("a rule of 1, 1, 1 scales nothing: one of alpha, beta and gamma must be above 1")
    highest = HIGHEST_PHI * math.log(2) / math.log(rule.growth)
    low, high = at(0.0), None
    if macs < low.macs:
        raise NetworkError(f"{base} has {low.macs:,} multiply-adds already, more than the {macs:,.0f} asked")
    if macs > low.macs * 2**HIGHEST_PHI:
        raise NetworkError(f"{macs:,.0f} multiply-adds are over {2**HIGHEST_PHI:,.0f} times those of {base}")
    # Counted multiply-adds never fall as φ grows (all roundings are monotone): first above, then halve.
    reach = 1.0
    while high is None:
        candidate = at(min(reach, highest))
        if candidate.macs >= macs or reach >= highest:
            high = candidate
        else:
            low, reach = candidate, reach * 2
    for _ in range(PHI_STEPS):
        if low.macs == macs:
            return low
        middle = at((low.phi + high.phi) / 2)
        if middle.macs < macs:
            low = middle
        else:
            high = middle
        if low.counts == high.counts:
            break
    return min(low, high, key=lambda scaled: abs(scaled.macs - macs))


def depth_only(base: str, macs: float, **chosen: Any) -> Scaled:
    """`base` made deeper until it costs about `macs` multiply-adds."""
    return scale_to(base, macs, DEPTH_ONLY, **chosen)


def width_only(base: str, macs: float, **chosen: Any) -> Scaled:
    """`base` made wider until it costs about `macs` multiply-adds."""
    return scale_to(base, macs, WIDTH_ONLY, **chosen)


def resolution_only(base: str, macs: float, **chosen: Any) -> Scaled:
    """`base` on larger images until it costs about `macs` multiply-adds."""
    return scale_to(base, macs, RESOLUTION_ONLY, **chosen)


FEWEST_POINTS = 12  # of a grid search: fewer say little of three factors


@dataclass(frozen=True)
class Trial:
    """One point of a grid search; `score` is NaN where it could not be had."""

    scaled: Scaled
    score: float


@dataclass(frozen=True)
class RuleSearch:
    """What a grid search tried, in the order in which it did."""

    base: str
    base_macs: int
    trials: tuple[Trial, ...]

    @property
    def best(self) -> Trial:
        """The trial with the highest score; of equal ones the cheapest."""
        scored = [trial for trial in self.trials if math.isfinite(trial.score)]
        if not scored:
            raise NetworkError(f"no point of the grid search on {self.base} has a finite score")
        return max(scored, key=lambda trial: (trial.score, -trial.scaled.macs))


def search_rule(
    base: str,
    evaluate: Callable[[Scaled], float],
    *,
    points: int = FEWEST_POINTS,
    growth: float = 2.0,
    tolerance: float = 0.1,
    step: float = 0.05,
    **chosen: Any,
) -> RuleSearch:
    """Grid search for α, β, γ at φ = 1 (section 3.3 of the paper): which best spends `growth` times the cost?

    β and γ take the values 1, 1 + `step`, …; α is what is left of `growth`. Points whose counted multiply-adds miss
    `growth` times those of `base` by more than `tolerance` (a share) are left out, as are those that round to the
    same network; of the others `points` are taken that lie far apart. `evaluate` trains a network and returns its
    score, higher is better. Raises `NetworkError` before anything is trained if the grid holds too few points.
    """
    if points < FEWEST_POINTS:
        raise NetworkError(f"a grid search needs at least {FEWEST_POINTS} points, not {points}")
    if not (growth > 1 and step > 0):
        raise NetworkError(f"growth must be above 1 and step above 0, not {growth} and {step}")
    base_macs = scale(base, 0.0, **chosen).macs
    grid = rule_grid(base, base_macs, growth, tolerance, step, chosen)
    if len(grid) < points:
        raise NetworkError(
            f"only {len(grid)} distinct networks cost {growth:g} times {base} within {100 * tolerance:g}%; "
            f"{points} are needed: raise tolerance or lower step"
        )
    trials = tuple(Trial(scaled, float(evaluate(scaled))) for scaled in spread(grid, points))
    return RuleSearch(base, base_macs, trials)


def rule_grid(
    base: str, base_macs: int, growth: float, tolerance: float, step: float, chosen: dict[str, Any]
) -> list[Scaled]:
    """The distinct networks at φ = 1 whose counted multiply-adds are `growth` times `base_macs`, within tolerance."""
    most = math.sqrt(growth)
    factors = [1 + index * step for index in range(math.floor((most - 1) / step + 1e-9) + 1)]
    found: dict[tuple[int, int, int], Scaled] = {}
    for beta in factors:
        for gamma in factors:
            alpha = growth / (beta * gamma) ** 2
            if alpha < 1:
                continue
            scaled = scale(base, 1.0, alpha, beta, gamma, **chosen)
            if abs(scaled.macs / (growth * base_macs) - 1) <= tolerance:
                found.setdefault((scaled.params, scaled.macs, scaled.resolution), scaled)
    return list(found.values())


def spread(grid: list[Scaled], points: int) -> list[Scaled]:
    """`points` of the grid, each the farthest from those taken before, by the logarithms of α, β and γ."""

    def place(scaled: Scaled) -> tuple[float, float, float]:
        rule = scaled.rule
        return math.log(rule.alpha), 2 * math.log(rule.beta), 2 * math.log(rule.gamma)

    taken, rest = [grid[0]], list(grid[1:])
    while len(taken) < points:
        farthest = max(rest, key=lambda item: min(math.dist(place(item), place(other)) for other in taken))
        taken.append(farthest)
        rest.remove(farthest)
    return taken
