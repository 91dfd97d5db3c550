"""Which structure is healed next: steps along the front of proposals, guided by what healing has shown so far."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tenfold.search.damage import loss_per_damage
from tenfold.search.frontier import TIE
from tenfold.search.proposals import Proposal

FEWEST_PASSES = 12  # over the training data, for a finalist to be worth healing
FEWEST_OF_TWO = 4.0  # passes for each of two, where there is no time to heal two well
MOST_FINALISTS = 8
NAMES = tuple(f"c{number + 1}" for number in range(MOST_FINALISTS))
SAFETY = 0.85  # of the tolerance that a guess may use up
NEAR = 1.25  # of the tolerance: a guess so near is worth a try once another network stands
# Of the metric, lost for want of passes whatever the structure, times their number squared. A ResNet-56 on
# Fashion-MNIST with nine blocks gone lost 0.9 points after 2.6 passes and 0.8 after 3.1, and with twelve gone 0.4 to 0.5
# after 4 to 4.5: more than its first two say alone, or what is milder and heals for less would be taken at a toss.
UNDERHEALED = 0.1
# Of the metric, lost for each nat of divergence on training examples before any healing. A ResNet-56 on CIFAR-10 lost
# 1.7 points at 0.011 nats (one block gone), 5.2 at 0.054 (four) and 10.3 at 0.23 (six).
UNHEALED = 1.0


@dataclass(frozen=True)
class Tried:
    """A healed finalist: its drop on validation, the upper end of the interval, whether all limits are met.

    `within` tells whether the limits on latency, size and memory are: one that misses those alone was accurate
    enough, and what follows must be cheaper, not milder.
    """

    proposal: Proposal
    drop: float
    drop_high: float
    met: bool
    passes: float = math.inf  # over the training data
    seconds_per_pass: float | None = None
    name: str = ""
    measured: float | None = None  # milliseconds or bytes, what is minimised
    within: bool = True

    def cost(self, minimize: str) -> float:
        """What is to be small, as measured, or as predicted where it was not."""
        return self.proposal.cost(minimize) if self.measured is None else self.measured


@dataclass(frozen=True)
class Next:
    """What to do next: heal this proposal, or, if `extend`, go on healing what was made of it."""

    proposal: Proposal
    extend: bool = False


def number_of_finalists(
    seconds: float, seconds_per_pass: float, overhead: float = 0.0, *, first: bool = False
) -> int:
    """How many can be healed well in the time: at least one, at most eight.

    `seconds` are those of healing if there is one alone; every other takes `overhead` seconds beside its own. With
    the `first`, two are planned for where both can be healed a little: what the first loses tells how far the next
    may go, which is worth more than its passes.
    """
    each = FEWEST_PASSES * max(seconds_per_pass, 1e-9) + overhead
    planned = max(1, min(MOST_FINALISTS, int(seconds // each)))
    if planned == 1 and first and (seconds - overhead) / 2 >= FEWEST_OF_TWO * seconds_per_pass:
        return 2
    return planned


def underhealed(proposal: Proposal, passes: float) -> float:
    """Of the metric, lost for want of passes: 1 / (1/a + p²/b), a lost before healing and b/p² after p passes of a large cut."""
    unhealed = UNHEALED * proposal.divergence
    return 1 / (1 / unhealed + passes**2 / UNDERHEALED) if unhealed > 0 else 0.0


def choose_next(
    front: Sequence[Proposal],
    tried: Sequence[Tried],
    tolerance: float,
    half_width: float,
    minimize: str,
    passes: Callable[[Proposal], float] = lambda proposal: math.inf,
) -> Next | None:
    """The cheapest proposal whose expected drop, with the interval's half width, stays within the tolerance.

    Of those that cost as much, to within a few percent, the one that is expected to lose least.
    `passes` says how many passes of healing there is time for. After a loss that was too large only proposals that
    are expected to lose less are tried; after a success, or one that only cost too much, only cheaper ones. Where
    none is expected to stay within it, the mildest is tried; where nothing milder than a failure is left, the best
    failed one is healed on. None if there is nothing sensible left.
    """
    slope = loss_per_damage(
        [(t.proposal.damage, t.drop - underhealed(t.proposal, t.passes)) for t in tried if t.passes > 0]
    )

    def expected(proposal: Proposal) -> float:
        return slope * proposal.damage + underhealed(proposal, passes(proposal))

    done = {t.proposal.plan for t in tried}
    failed = [expected(t.proposal) for t in tried if not t.met and t.within]
    passed = [t.cost(minimize) for t in tried if t.met]
    dear = [t.cost(minimize) for t in tried if not t.within]
    options = [
        p
        for p in front
        if p.plan not in done
        and not p.plan.untouched
        and (not failed or expected(p) < min(failed))
        and (not dear or p.cost(minimize) < min(dear))
        and (not passed or p.cost(minimize) < (1 - TIE) * min(passed))
    ]
    likely = [p for p in options if expected(p) + half_width <= SAFETY * tolerance]
    if likely:
        least = min(p.cost(minimize) for p in likely)
        return Next(min((p for p in likely if p.cost(minimize) <= (1 + TIE) * least), key=expected))
    if passed:
        # A success stands; the mildest step beyond it is worth a try only if the guess is near the limit.
        near = [p for p in options if expected(p) + half_width <= NEAR * tolerance]
        return Next(min(near, key=expected)) if near else None
    lossy = [t for t in tried if not t.met and t.within]
    if lossy and min(lossy, key=lambda t: t.drop_high).drop < 2 * tolerance:
        return Next(min(lossy, key=lambda t: t.drop_high).proposal, extend=True)
    # None can be expected to meet it: what is expected of them differs by less than is known, so the mildest is tried.
    return Next(min(options, key=lambda p: p.damage)) if options else None
