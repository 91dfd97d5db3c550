"""What the time that is left allows: how long a finalist may heal, and how many passes over the data that makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tenfold.search.finalist import served_as
from tenfold.search.finalists import Tried, number_of_finalists
from tenfold.search.finish import seconds_needed
from tenfold.search.frontier import ORIGINAL, PLAIN_INT8
from tenfold.search.job import Job
from tenfold.search.pace import TRAINING_OVER_FORWARD, original_pass
from tenfold.search.packed import PACKED
from tenfold.search.point import Point
from tenfold.search.proposals import Proposal
from tenfold.search.variants import seconds_kept
from tenfold.training import View

TEACHER_VIEWS = len(
    View
)  # in which the teacher may be asked about every example, one more in each first pass
TRIAL_EXAMPLES, TRIALS_SHARE = 1000, 0.1  # that are trained on to find a pace, and the most that may take
CUT_SECONDS = 3.0  # for cutting a structure out of the network
SHORTEST_HEALING = 2.0  # seconds
FEWEST_FIRST, FEWEST_NEXT = 0.5, 3.0  # passes below which the first finalist, or another, is not begun
# What is stored in fewer bits takes so many times as long as plain INT8: its weights are rounded with care.
ROUNDING = 2.0
PLAIN = {"fp32": ORIGINAL, "int8-static": PLAIN_INT8}


@dataclass(frozen=True)
class Outlook:
    """The time that is left, seen from before the next finalist; `overhead` is what the last one took beside healing."""

    job: Job
    tried: Sequence[Tried]
    overhead: float | None = None

    def seconds_per_pass(self, proposal: Proposal) -> float:
        """Of training on all of the training data: by what earlier finalists took, else by steps of the original."""
        paces = [t.seconds_per_pass / t.proposal.macs for t in self.tried if t.seconds_per_pass]
        if paces:
            return max(paces[-1] * proposal.macs, 1e-9)
        share = proposal.macs / max(self.job.original_profile().macs, 1)
        return max(original_pass(self.job) * share, 1e-9)

    def seconds(self, proposal: Proposal) -> float:
        """How long it may heal if the time is divided among as many finalists as can be healed well."""
        overhead, left = self.seconds_beside(proposal), self.seconds_for_one(proposal)
        planned = number_of_finalists(left, self.seconds_per_pass(proposal), overhead, first=not self.tried)
        return (left - overhead * (planned - 1)) / planned

    def seconds_for_one(self, proposal: Proposal) -> float:
        """How long it may heal if it is the last."""
        return self.job.clock.left() - self._needed - self.seconds_beside(proposal)

    def seconds_beside(self, proposal: Proposal) -> float:
        """What cutting, exporting and scoring take: as the last finalist showed, else as the baselines did.

        Scoring takes less the smaller a network is; the rest is taken to be the same.
        """
        if self.overhead is not None:
            return self.overhead
        share = min(1.0, proposal.macs / max(self.job.original_profile().macs, 1))
        total = CUT_SECONDS
        for precision in served_as(self.job, proposal):
            point = self._points.get(PLAIN.get(precision, PLAIN_INT8)) or self._points[ORIGINAL]
            scoring = (point.seconds_per_example or 0.0) * len(self.job.task.validation)
            seconds = point.seconds or 0.0
            total += seconds - (1 - share) * scoring
            if precision == PACKED:
                total += (ROUNDING - 1) * share * seconds
        return total

    @cached_property
    def _points(self) -> dict[str, Point]:
        return {point.id: point for point in self.job.store.points()}

    @cached_property
    def _needed(self) -> float:
        return seconds_needed(self.job) + seconds_kept(self.job)

    def passes(self, proposal: Proposal) -> float:
        """How many passes over the training data it may have, once the teacher has answered."""
        known = any(t.seconds_per_pass for t in self.tried)
        asking = (
            0.0 if known else original_pass(self.job) / TRAINING_OVER_FORWARD
        )  # seconds, about all examples once
        per_pass = self.seconds_per_pass(proposal)
        trials = min(
            TRIAL_EXAMPLES * per_pass / len(self.job.task.train), TRIALS_SHARE * self.seconds(proposal)
        )
        left = max(self.seconds(proposal) - trials, 0.0)
        few = left / (per_pass + asking)  # where the teacher is asked in all of them
        return few if few < TEACHER_VIEWS else (left - TEACHER_VIEWS * asking) / per_pass

    def examples(self, proposal: Proposal) -> float:
        """How many training examples it may learn from, those that it sees again included."""
        return self.passes(proposal) * len(self.job.task.train)

    def has_time_for(self, proposal: Proposal) -> bool:
        """Whether it can be healed so much that a try makes sense."""
        fewest = FEWEST_NEXT if self.tried else FEWEST_FIRST
        return self.passes(proposal) > fewest and self.seconds(proposal) > SHORTEST_HEALING
