"""The versions of a network that is healed, of which the best is kept."""

from __future__ import annotations

import math
import time
from typing import Any

from torch import nn

from tenfold.data import Split
from tenfold.training import Distillation, Precision, mean_loss


class Versions:
    """The student judged at each stage by its mean loss on held-out examples; the best of them can be brought back."""

    def __init__(
        self, student: nn.Module, held: Split, objective: Distillation, precision: Precision
    ) -> None:
        self.student, self.held, self.objective, self.precision = student, held, objective, precision
        self.losses: dict[str, float] = {}
        self.seconds = 0.0  # that judging takes, without the teacher's share
        self._best: tuple[str, dict[str, Any]] = "", {}

    def note(self, name: str) -> None:
        """Judge the student as it is and keep a copy if it is the best so far; a loss that is not finite is none."""
        if not self.losses:  # the teacher answers in the first call and is not to be timed
            self._judge()
        started = time.monotonic()
        loss = self._judge()
        self.seconds = time.monotonic() - started
        if math.isfinite(loss):
            if loss < min(self.losses.values(), default=math.inf):
                self._best = name, {k: v.detach().clone() for k, v in self.student.state_dict().items()}
            self.losses[name] = loss

    def restore_best(self) -> str:
        """Give the student the weights of the lowest loss, and return that version's name."""
        name, weights = self._best
        self.student.load_state_dict(weights)
        return name

    def _judge(self) -> float:
        return mean_loss(self.student, self.held, self.objective, precision=self.precision)
