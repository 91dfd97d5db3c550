"""Progress in a terminal: one bar for each phase, with the time that it has taken and what it is expected to take yet."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console as Terminal
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tenfold.report.wording import duration

REFRESH_SECONDS = 0.1
LINE_SECONDS = 30.0  # between lines of one phase, where there is no terminal to draw a bar in
TELLING = 0.05  # of a phase, from which on its pace tells what is left of it


class Console:
    """A callable `report(phase, fraction, text)`.

    Without a terminal it prints a line as each phase begins, and then every half minute in which the phase reports.
    """

    def __init__(self, terminal: Terminal) -> None:
        self.terminal = terminal
        self.phases: dict[str, TaskID] = {}
        self.bars = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("left:"),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[text]}", markup=False),
            console=terminal,
            disable=not terminal.is_terminal,
        )
        self._last = self._printed = 0.0
        self._began = self._started_at = 0.0  # when the phase began, and how far it was then

    def __enter__(self) -> Console:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()

    def __call__(self, phase: str, fraction: float, text: str) -> None:
        if phase not in self.phases:
            for task in self.phases.values():
                self.bars.update(task, completed=1.0)
            self.phases[phase] = self.bars.add_task(phase, total=1.0, text="")
            self._line(phase)
            self._began, self._started_at = self._printed, fraction
        now = time.monotonic()
        if now - self._printed > LINE_SECONDS:
            self._line(f"{phase} {fraction:.0%}{self._left(now, fraction)} {text}")
        if fraction >= 1 or now - self._last > REFRESH_SECONDS:
            self._last = now
            self.bars.update(self.phases[phase], completed=min(fraction, 1.0), text=text)

    def _left(self, now: float, fraction: float) -> str:
        """What is left of the phase at its pace so far."""
        done = fraction - self._started_at
        if not done >= TELLING or fraction >= 1:
            return ""
        seconds = (now - self._began) * (1 - fraction) / done
        return f" (about {duration(seconds)} left)"

    def _line(self, text: str) -> None:
        self._printed = time.monotonic()
        if not self.terminal.is_terminal:
            self.terminal.print(text, markup=False, highlight=False, soft_wrap=True)
