"""Scaling a network by rule: depth, width and resolution together, or one of them alone.

Tan and Le, 2019 (EfficientNet), arXiv:1905.11946, equation 3: depth α^φ, width β^φ, resolution γ^φ, where
α·β²·γ² is about how much the multiply-adds grow with each unit of φ. The networks' own rounding applies: channels
to eights, never a tenth below (`nn.round_channels`), blocks of a stage upwards, resolution to the nearest pixel.
The published B1 to B7 come from a table beside this rule, not from it: `create("efficientnet_b3")` is exact.
The paper asks α, β, γ ≥ 1 and takes φ upwards from 0. Below 0 the same rule shrinks (Han et al., 2020, "Model Rubik's
Cube", arXiv:2010.14819, who find that small networks are better served by other factors).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from tenfold.cost import profile
from tenfold.errors import NetworkError
from tenfold.models.catalogue import check_options, create, describe, options
from tenfold.models.images import has_small_stem
from tenfold.models.option_types import is_number

MOST_GROWTH = 2.0**10  # `scale_to` looks no further; B7 costs 100 times what B0 does
# What `scale` refuses, by the published figures times the factors: more than one machine trains, or even holds.
MOST_MACS, MOST_PARAMS, MOST_SIDE = 1e13, 1e10, 2**14  # multiply-adds of an image, parameters, pixels
FINEST_PHI = 2e-3  # two φ closer than this are one: finer than one block, group of channels or pixel


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
    stays small, whatever the resolution grows to. A φ below 0 shrinks the network. Raises `NetworkError` if the network
    lacks a dimension that the rule scales, for one of about 10¹³ multiply-adds an image, 10¹⁰ parameters or 16,384
    pixels a side and more, and where a φ below 0 leaves nothing of a layer.
    """
    if not is_number(phi):
        raise NetworkError(f"phi must be a finite number, not {phi!r:.40}")
    check_options(base, chosen)
    _check_size(base, phi, Rule(alpha, beta, gamma), chosen)
    scaled = _scaled(base, phi, alpha, beta, gamma, **chosen)
    if phi < 0:
        try:
            with torch.device("meta"):
                scaled.create()
        except NetworkError as error:
            raise NetworkError(f"{base} at phi {phi:g}: {error}; take a phi nearer to 0") from error
    return scaled


def _check_size(base: str, phi: float, rule: Rule, chosen: dict[str, Any]) -> None:
    """Raise `NetworkError` for a φ that makes more of the network than can be built, with what it would have."""
    known = describe(base)
    depth, width = (max(chosen.get(name, 1.0), 1e-9) for name in ("depth", "width"))
    side = chosen.get("resolution") or known.resolution
    deep, wide, fine = (math.log(factor) for factor in (rule.alpha, rule.beta, rule.gamma))
    # Each limit by logarithms, since the powers themselves may be no float: what it is at φ = 0, its growth, the most.
    params = math.log(known.params * depth * width**2)
    macs = math.log(known.macs * depth * width**2 * (side / known.resolution) ** 2)
    limits = (
        (macs, deep + 2 * wide + 2 * fine, MOST_MACS, "multiply-adds"),
        (params, deep + 2 * wide, MOST_PARAMS, "parameters"),
        (math.log(side), fine, MOST_SIDE, "pixels a side"),
    )
    over = [
        (start, growth, most, what)
        for start, growth, most, what in limits
        if start + growth * phi > math.log(most)
    ]
    if not over:
        return
    has = ", ".join(
        f"about 10^{(start + growth * phi) / math.log(10):.1f} {what}" for start, growth, _, what in over
    )
    may = ", ".join(f"{most:g} {what}" for _, _, most, what in over)
    advice = "choose less depth, width or resolution"
    if all(growth > 0 for _, growth, _, _ in over):
        largest = min((math.log(most) - start) / growth for start, growth, most, _ in over)
        advice = f"take a phi of at most {math.floor(10 * largest) / 10:g}"
    raise NetworkError(f"{base} at phi {phi:g} would have {has}; the most are {may}: {advice}")


def _scaled(base: str, phi: float, alpha: float, beta: float, gamma: float, **chosen: Any) -> Scaled:
    """What `scale` gives, at any size."""
    rule = Rule(alpha, beta, gamma)
    allowed = options(base)
    for option, factor in (("depth", alpha), ("width", beta), ("resolution", gamma)):
        if factor != 1 and option not in allowed:
            raise NetworkError(f"{base} cannot be scaled in {option}: it has no such option")
    kept = dict(chosen)
    side = kept.pop("resolution", None) or describe(base).resolution
    if "small_stem" in allowed and kept.get("small_stem") is None:
        kept["small_stem"] = has_small_stem(side, None)
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
        return _scaled(base, phi, rule.alpha, rule.beta, rule.gamma, **chosen)

    check_options(base, chosen)
    if rule.growth == 1:
        raise NetworkError("a rule of 1, 1, 1 scales nothing: one of alpha, beta and gamma must be above 1")
    low = at(0.0)
    if not low.macs <= macs <= low.macs * MOST_GROWTH:
        raise NetworkError(
            f"{base} has {low.macs:,} multiply-adds: {macs:,.0f} are less, or over {MOST_GROWTH:g} times more"
        )
    # Counted multiply-adds never fall as φ grows, since every rounding is monotone: enclose the φ, then halve.
    step = math.log(macs / low.macs) / math.log(rule.growth) + FINEST_PHI
    high = at(step)
    while high.macs < macs:
        low, high = high, at(high.phi + step)
    while high.phi - low.phi > FINEST_PHI and macs not in (low.macs, high.macs):
        middle = at((low.phi + high.phi) / 2)
        if middle.macs < macs:
            low = middle
        else:
            high = middle
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

    α and β take the values 1, 1 + `step`, …; γ follows from the cost. Points whose counted multiply-adds miss
    `growth` times those of `base` by more than `tolerance` (a share) are left out, as are those that round to the
    same network; of the others `points` are taken that lie far apart. `evaluate` trains a network and returns its
    score, higher is better. Raises `NetworkError` before anything is trained if the grid holds too few points.
    """
    if points < FEWEST_POINTS:
        raise NetworkError(f"a grid search needs at least {FEWEST_POINTS} points, not {points}")
    if not (growth > 1 and step > 0 and 0 < tolerance < 1):
        raise NetworkError(
            f"growth must be above 1, step above 0, tolerance between: {growth}, {step}, {tolerance}"
        )
    start = scale(base, 0.0, **chosen)
    grid = rule_grid(start, growth, tolerance, step)
    if len(grid) < points:
        raise NetworkError(
            f"only {len(grid)} distinct networks cost {growth:g} times {base} within {100 * tolerance:g}%; "
            f"{points} are needed: raise tolerance or lower step"
        )
    trials = tuple(Trial(scaled, float(evaluate(scaled))) for scaled in spread(grid, points))
    return RuleSearch(base, start.macs, trials)


def rule_grid(start: Scaled, growth: float, tolerance: float, step: float) -> list[Scaled]:
    """The distinct networks at φ = 1 whose counted multiply-adds are `growth` times those of `start`, or nearly.

    Rounding makes real costs jump: one block more in each stage can be half of a network, and a pixel more in the
    input a whole row in every stage. So γ is not taken from α·β²·γ² but from counted costs.
    """
    wanted = growth * start.macs
    found: dict[tuple[int, int], Scaled] = {}
    seen: set[int] = set()
    for alpha in _factors(growth, step):
        for beta in _factors(math.sqrt(growth), step):
            same_size = _grown(start, alpha, beta, 1.0)
            if same_size.params in seen:
                continue
            seen.add(same_size.params)
            if same_size.macs > (1 + tolerance) * wanted:
                break  # wider ones cost more still
            for scaled in _resized(start, same_size, wanted):
                if abs(scaled.macs / wanted - 1) <= tolerance:
                    found.setdefault((scaled.params, scaled.resolution), scaled)
                    break
    return list(found.values())


def _factors(most: float, step: float) -> list[float]:
    return [1 + index * step for index in range(math.floor((most - 1) / step + 1e-9) + 1)]


def _grown(start: Scaled, alpha: float, beta: float, gamma: float) -> Scaled:
    """`start` at φ = 1 of a rule."""
    return replace(
        start,
        phi=1.0,
        rule=Rule(alpha, beta, gamma),
        depth=start.depth * alpha,
        width=start.width * beta,
        resolution=round(start.resolution * gamma),
    )


def _resized(start: Scaled, same_size: Scaled, wanted: float) -> Iterator[Scaled]:
    """Networks as deep and wide as `same_size` whose resolutions should cost about `wanted`, likeliest first.

    Multiples of 8 are tried too: with other sides, strides round up and cost more than the square of the side.
    """
    side = start.resolution * max(1.0, math.sqrt(wanted / same_size.macs))
    for resolution in dict.fromkeys((round(side), int(side // 8) * 8, int(side // 8) * 8 + 8)):
        if resolution >= start.resolution:
            rule = same_size.rule
            yield _grown(start, rule.alpha, rule.beta, resolution / start.resolution)


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
