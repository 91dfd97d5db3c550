"""A teacher of several networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.cost import main_output
from tenfold.errors import NetworkError


class Ensemble(nn.Module):
    """Answers with the mean of its members' outputs: of logits, the geometric mean of their distributions.

    Hinton, Vinyals and Dean (2015), section 1, who distil such a mean into one network.
    """

    def __init__(self, members: Iterable[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        if not len(self.members):
            raise NetworkError("an ensemble needs at least one network")

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        answers = [main_output(member(*args, **kwargs)) for member in self.members]
        shapes = {tuple(answer.shape) for answer in answers}
        if len(shapes) > 1:
            raise NetworkError(f"the networks of an ensemble answer in different shapes: {sorted(shapes)}")
        return torch.stack(answers).mean(0)
