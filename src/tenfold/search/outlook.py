"""What the time that is left allows: how long a finalist may heal, and how many passes over the data that makes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from tenfold.search.finalist import served_as
from tenfold.search.finalists import FEWEST_PASSES, Tried, number_of_finalists
from tenfold.search.finish import seconds_needed
from tenfold.search.frontier import ORIGINAL
from tenfold.search.job import Job
from tenfold.search.point import Point
from tenfold.search.proposals import Proposal
from tenfold.search.variants import seconds_kept
from tenfold.training import precision_and_pace

TRAINING_OVER_FORWARD = 3.0  # seconds of a training step over those of a forward pass
TEACHER_VIEWS = 2  # in which the teacher may be asked about every example, before the first healing
PACE_EXAMPLES = 16
CUT_SECONDS = 3.0  # for cutting a structure out of the network
SHORTEST_HEALING = 2.0  # seconds
FEWEST_FIRST, FEWEST_NEXT = 0.5, 3.0  # passes below which the first finalist, or another, is not begun
PLAIN = {"fp32": ORIGINAL, "int8-static": "onnx-int8-static"}


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
        return max(self._original_pass * share, 1e-9)

    def seconds(self, proposal: Proposal) -> float:
        """How long it may heal if the time is divided among as many finalists as can be healed well."""
        overhead = self.seconds_beside(proposal)
        left = self.job.clock.left() - self._needed - overhead
        planned = number_of_finalists(left, self.seconds_per_pass(proposal) + overhead / FEWEST_PASSES)
        return (left - overhead * (planned - 1)) / planned

    def seconds_beside(self, proposal: Proposal) -> float:
        """What cutting, exporting and scoring take: as the last finalist showed, else as the baselines did.

        Scoring takes less the smaller a network is; the rest is taken to be the same.
        """
        if self.overhead is not None:
            return self.overhead
        share = min(1.0, proposal.macs / max(self.job.original_profile().macs, 1))
        total = CUT_SECONDS
        for precision in served_as(self.job, proposal):
            point = self._points.get(PLAIN[precision])
            if point is not None:
                scoring = (point.seconds_per_example or 0.0) * len(self.job.task.validation)
                total += (point.seconds or 0.0) - (1 - share) * scoring
        return total

    @cached_property
    def _points(self) -> dict[str, Point]:
        return {point.id: point for point in self.job.store.points()}

    @cached_property
    def _original_pass(self) -> float:
        """Seconds of training the original for a pass, from a step in the arithmetic that suits it; stored."""
        task, stored = self.job.task, self.job.store.step("pace")
        if stored is None:
            try:
                _, pace = precision_and_pace(task.model, task.example(PACE_EXAMPLES), examples=PACE_EXAMPLES)
            except RuntimeError:  # it has no backward pass; what heals will say so
                pace = TRAINING_OVER_FORWARD * (self._points[ORIGINAL].seconds_per_example or 1e-3)
            stored = {"seconds_per_example": pace}
            self.job.store.finish_step("pace", stored)
        return float(stored["seconds_per_example"]) * len(task.train)

    @cached_property
    def _needed(self) -> float:
        return seconds_needed(self.job) + seconds_kept(self.job)

    def passes(self, proposal: Proposal) -> float:
        """How many passes over the training data it may have, once the teacher has answered."""
        known = any(t.seconds_per_pass for t in self.tried)
        teacher = 0.0 if known else TEACHER_VIEWS * self._original_pass / TRAINING_OVER_FORWARD
        return max(self.seconds(proposal) - teacher, 0.0) / self.seconds_per_pass(proposal)

    def has_time_for(self, proposal: Proposal) -> bool:
        """Whether it can be healed so much that a try makes sense."""
        fewest = FEWEST_NEXT if self.tried else FEWEST_FIRST
        return self.passes(proposal) > fewest and self.seconds(proposal) > SHORTEST_HEALING
