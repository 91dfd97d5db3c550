"""Losses of steps that a GPU is still taking: read some steps late, so that it never waits for the processor.

Reading a loss waits for the GPU, which then waits for the processor to start the next step. With a few steps in its
queue it goes on meanwhile, and the processor waits for the oldest of them alone.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import torch
from torch import Tensor

WINDOW = 8  # losses that may be unread on a GPU …
AHEAD_SECONDS = 0.1  # … of no more steps than take so long: what ends a run in time is told no later

State = dict[str, Tensor]


class Unread:
    """The losses of the last steps, oldest first, each with a copy of the weights that gave it where one was made.

    Up to `window` of them are unread: with 1, as is usual on a processor, each is read before its step goes on.
    """

    def __init__(self, device: torch.device, window: int | None = None) -> None:
        if window is not None and window < 1:
            raise ValueError(f"window must be at least 1, the loss of the step itself, not {window}")
        self.window = (WINDOW if device.type == "cuda" else 1) if window is None else window
        self._steps: deque[tuple[Tensor, torch.cuda.Event | None, State | None]] = deque()

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, loss: Tensor, state: State | None = None) -> None:
        """Take the loss, a scalar, as the queued work will make it."""
        loss, arrival = loss.detach(), None
        if loss.is_cuda:
            stream = torch.cuda.current_stream(loss.device)
            loss = loss.to("cpu", non_blocking=True)  # into pinned memory, which holds the value …
            arrival = stream.record_event()  # … once this came to pass
        self._steps.append((loss, arrival, state))

    def fitting(self, slowest: float) -> int:
        """How many may stay unread where a step takes up to `slowest` seconds; none before one was timed."""
        return int(min(self.window - 1, AHEAD_SECONDS / slowest)) if slowest > 0 else 0

    def read(self, most: int = 0) -> Iterator[tuple[float, State | None]]:
        """Wait for the oldest until at most so many are unread: their values, with the copies of the weights."""
        while len(self._steps) > most:
            loss, arrival, state = self._steps.popleft()
            if arrival is not None:
                arrival.synchronize()
            yield loss.item(), state
