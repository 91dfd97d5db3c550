"""A clock that fits a schedule to a time: it runs down by the last step there is time for, at whatever pace."""

from __future__ import annotations

import time
from dataclasses import dataclass

from tenfold.training.loop import Clock

REMEMBERED = 20  # looks that the pace is the mean of, so that it follows a machine that slows down
ROUNDING = 1e-9  # of shares that are added up step by step
FORWARD = 1 / 3  # of a step's time: a scoring pass over as many examples, until one has been timed


@dataclass
class FittedClock(Clock):
    """Where `seconds` bound a run, every step takes an equal part of what is left of the schedule.

    How many steps are left is planned anew before each of them, from the time of a step and that of a scoring. One
    comes after every `every` steps and reads `batches` times as many examples as a step; the one at the end of the run
    is on top of the time. Without `seconds` the schedule is that of the steps alone.
    """

    every: int = 1
    batches: float = 0.0
    share: float = 0.0  # of the schedule that is behind, where a time bounds it
    pace: float | None = None  # seconds of a step
    scoring: float | None = None  # seconds of a scoring
    looks: int = 0  # that `pace` is from; 0 while it is but guessed from the first step
    looked: tuple[int, float] | None = None  # the step and the time from which the pace is taken

    def may_step(self, queued: int = 0) -> bool:
        """Whether there is another step to take, and time for it, behind so many that are queued."""
        return super().may_step(queued) and self.steps_left() != 0

    def steps_left(self) -> int | None:
        """How many more steps there is time for; None where no time bounds them, or no pace is known.

        At least one by a guessed pace: a run of a single step would end in its warm-up.
        """
        if self.seconds is None or self.steps is None or self.pace is None:
            return None
        seconds, pace = max(0.0, self.seconds - self.elapsed()), max(self.pace, 1e-9)
        scoring = pace * self.batches * FORWARD if self.scoring is None else self.scoring
        left = self.every - self.step % self.every  # to the next scoring
        rest = seconds - left * pace - scoring
        if seconds < left * pace:
            left = int(seconds / pace + 1e-6)
        elif rest >= pace:
            whole, rest = divmod(rest, self.every * pace + scoring)
            left += int(whole) * self.every + min(self.every, int(rest / pace + 1e-6))
        return min(max(left, 0 if self.looks else 1), self.steps - self.step)

    def next_share(self) -> float:
        """The share of the schedule that the next step stands at; the step is counted as taken."""
        assert self.steps is not None
        left = self.steps_left()
        if left is None:
            self.share = max(self.share, self.done())
            return max(self.share, 1 / (self.steps + 1))
        if left == self.steps - self.step and self.share <= (plain := self.step / self.steps) + ROUNDING:
            self.share = plain  # there is time for all: the schedule is that of the steps alone
        share = max(self.share, 1 / (self.step + left + 1))
        self.share += (1 - self.share) / max(1, left)
        return share

    def mark(self) -> None:
        """From here on the pace is taken: what was before is no step's time."""
        self.looked = self.step, time.monotonic()

    def look(self) -> None:
        """Take the pace of the steps since the last look."""
        if self.looked is not None and self.step > self.looked[0]:
            seconds = (time.monotonic() - self.looked[1]) / (self.step - self.looked[0])
            self.looks = min(self.looks + 1, REMEMBERED)
            self.pace = seconds if self.pace is None else self.pace + (seconds - self.pace) / self.looks
        self.mark()

    def begin(self, guess: bool) -> float:
        """Start afresh with the time that is left, once steps have settled; the seconds up to here.

        With `guess` the time since `mark` is taken for that of a step, until one has been timed.
        """
        if guess and self.looked is not None:
            self.pace = time.monotonic() - self.looked[1]
        before = self.elapsed()
        self.started += before
        if self.seconds is not None:
            self.seconds = max(0.0, self.seconds - before)
        self.mark()
        return before

    def go_on(self, step: int, seconds: float) -> None:
        """Stand where a run was stopped: at this step, after so many seconds of the whole time."""
        self.step, self.started = step, time.monotonic() - seconds
        self.share = self.done()
