"""Work of many like parts in a bounded time: which of them is still begun."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass
class Pacer:
    """Begins none that would not be done in time, by what the last one took.

    `left()` is the seconds until the time is over. `takes` is the seconds that the next is expected to take: of the
    first what is given (0: it is begun while any time is left), of each other what the one before it took. So what was
    begun ends past the time by no more than it was slower than the last, and where one is left out the time is too
    short for another like it.
    """

    left: Callable[[], float]
    takes: float = 0.0

    def may_begin(self) -> bool:
        """Whether there is time for another one like the last."""
        return self.takes <= self.left()

    @contextmanager
    def one(self) -> Iterator[None]:
        """Within the block one is done, which the next is expected to take as long as; also where it fails."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.takes = time.monotonic() - began
