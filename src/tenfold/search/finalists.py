"""Which structure is healed next: steps along the front of proposals, guided by what healing has shown so far."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tenfold.search.damage import loss_per_damage
from tenfold.search.proposals import Proposal

FEWEST_PASSES = 12  # over the training data, for a finalist to be worth healing
MOST_FINALISTS = 8
SAFETY = 0.85  # of the tolerance that a guess may use up


@dataclass(frozen=True)
class Tried:
    """A healed finalist: its proposal, its drop on validation with the interval's upper end, the tolerance met."""

    proposal: Proposal
    drop: float
    drop_high: float
    met: bool


@dataclass(frozen=True)
class Next:
    """What to do next: heal this proposal, or, if `extend`, go on healing what was made of it."""

    proposal: Proposal
    extend: bool = False


def number_of_finalists(seconds: float, seconds_per_pass: float) -> int:
    """How many can be healed well in the time: at least one, at most eight."""
    passes = seconds / max(seconds_per_pass, 1e-9)
    return max(1, min(MOST_FINALISTS, int(passes // FEWEST_PASSES)))


def choose_next(
    front: Sequence[Proposal], tried: Sequence[Tried], tolerance: float, half_width: float, minimize: str
) -> Next | None:
    """The cheapest proposal whose expected drop, with the interval's half width, stays within the tolerance.

    After a failure only less damage is tried, after a success only less cost. Where nothing new is left below a
    failure, the best failed one is healed on. None if there is nothing sensible left to do.
    """
    slope = loss_per_damage([(t.proposal.damage, t.drop) for t in tried])
    done = {t.proposal.plan for t in tried}
    failed = [t.proposal.damage for t in tried if not t.met]
    passed = [t.proposal.cost(minimize) for t in tried if t.met]
    options = [
        p
        for p in front
        if p.plan not in done
        and not p.plan.untouched
        and (not failed or p.damage < min(failed))
        and (not passed or p.cost(minimize) < min(passed))
    ]
    likely = [p for p in options if slope * p.damage + half_width <= SAFETY * tolerance]
    if likely:
        return Next(min(likely, key=lambda p: p.cost(minimize)))
    if passed:
        # A success stands; the mildest step beyond it is worth a try only if the guess is near the limit.
        near = [p for p in options if slope * p.damage + half_width <= 1.25 * tolerance]
        return Next(min(near, key=lambda p: p.damage)) if near else None
    if tried and min(tried, key=lambda t: t.drop_high).drop < 2 * tolerance:
        return Next(min(tried, key=lambda t: t.drop_high).proposal, extend=True)
    return Next(min(options, key=lambda p: p.damage)) if options else None
