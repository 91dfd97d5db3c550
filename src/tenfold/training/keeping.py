"""Keeping a run of `fit` on disk while it goes on, so that one that was stopped goes on where it stood."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.errors import NetworkError, OutputError, TenfoldWarning
from tenfold.training.checkpoint import (
    load_optimizer,
    load_weights,
    optimizer_tensors,
    part,
    prefixed,
    read_checkpoint,
    write_checkpoint,
)

EVERY_SECONDS = 5.0  # between two writes …
SHARE_OF_TIME = 0.02  # … which may take no more than this share of the time between them


class Keeper:
    """A file with the state of a run, and what is true of it: `facts`, plain JSON that must be equal to go on.

    `kept` are the facts of the file that is there, or None where there is none of a run with these `facts`. What
    was decided for the run stands in `decided`, and comes back with it. `also` is called at every write. A file that is
    damaged is named in a `TenfoldWarning`, and replaced.
    """

    def __init__(self, path: Path, facts: Mapping[str, Any]) -> None:
        self.path, self.facts = path, dict(facts)
        self.decided: dict[str, Any] = {}
        self.also: Callable[[], None] = lambda: None
        self._tensors: dict[str, Tensor] = {}
        self._wait, self._written = EVERY_SECONDS, time.monotonic()
        if not path.exists():
            return
        try:
            tensors, stored = read_checkpoint(path)
        except OutputError as error:  # it is soon replaced
            text = f"{error}; what that training had done is lost, and it begins again"
            warnings.warn(text, TenfoldWarning, stacklevel=2)
            return
        if stored.get("facts") == self.facts:
            self._tensors, self.decided = tensors, stored["decided"]

    @property
    def holds_a_run(self) -> bool:
        """Whether there is something to go on with."""
        return bool(self._tensors)

    def restore(self, learner: nn.Module, rule: torch.optim.Optimizer) -> tuple[int, list[float]]:
        """Put the state into `learner`, its optimiser and torch's generator: the steps done and their losses."""
        if not self._tensors:
            return 0, []
        source = str(self.path)
        try:
            load_weights(learner, part(self._tensors, "model"), source)
            load_optimizer(rule, learner, part(self._tensors, "optimizer"), source)
        except NetworkError as error:
            raise OutputError(f"{error}; remove {source} to begin that training again") from error
        torch.set_rng_state(self._tensors["random.cpu"])
        if "random.cuda" in self._tensors and any(p.is_cuda for p in learner.parameters()):
            torch.cuda.set_rng_state(self._tensors["random.cuda"])
        losses = self._tensors["losses"].tolist()
        self._tensors = {}
        return len(losses), losses

    def due(self) -> bool:
        """Whether the last time of writing is long enough ago."""
        return time.monotonic() - self._written > self._wait

    def write(self, learner: nn.Module, rule: torch.optim.Optimizer, losses: list[float]) -> None:
        """Write the state after so many steps, in place of the one before."""
        began = time.monotonic()
        random = {"random.cpu": torch.get_rng_state()}
        if any(parameter.is_cuda for parameter in learner.parameters()):
            random["random.cuda"] = torch.cuda.get_rng_state()
        tensors = {
            **prefixed("model", learner.state_dict()),
            **prefixed("optimizer", optimizer_tensors(rule, learner)),
            **random,
            "losses": torch.tensor(losses, dtype=torch.float64),
        }
        write_checkpoint(self.path, tensors, {"facts": self.facts, "decided": self.decided})
        self.also()
        self._written = time.monotonic()
        self._wait = max(EVERY_SECONDS, (self._written - began) / SHARE_OF_TIME)
