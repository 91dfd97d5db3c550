"""The time of a run: what is spent, what is left, and what must be kept for the end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Report = Callable[[str, float, str], None]


def silent(phase: str, fraction: float, text: str) -> None:
    """Report nothing."""


class Clock:
    """Counts from its making; `before` are seconds that earlier processes of the same run used."""

    def __init__(self, limit: float, before: float = 0.0, report: Report = silent) -> None:
        self.limit = limit
        self.before = before
        self.report = report
        self.phases: dict[str, float] = {}
        self._start = time.monotonic()

    def spent(self) -> float:
        """Seconds used by the run so far."""
        return self.before + time.monotonic() - self._start

    def left(self) -> float:
        """Seconds until the limit; negative once it is past."""
        return self.limit - self.spent()

    def deadline(self, seconds: float) -> float:
        """The `time.monotonic()` value `seconds` from now, at most at the limit."""
        return time.monotonic() + min(seconds, max(self.left(), 0.0))

    @contextmanager
    def phase(self, name: str) -> Iterator[Callable[[float, str], None]]:
        """Time a phase; yields `progress(fraction, text)`, which reports with the phase's name."""
        start = time.monotonic()
        try:

            def progress(fraction: float, text: str) -> None:
                self.report(name, fraction, text)

            yield progress
        finally:
            self.phases[name] = self.phases.get(name, 0.0) + time.monotonic() - start
