"""Small techniques for the tests of recipes and of saved networks."""

from __future__ import annotations

import copy
import enum
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.compress import Applied, Problem, Run, register
from tenfold.cost import Device, Inputs, call
from tenfold.data import Task


class Mode(enum.Enum):
    FAST = "fast"
    EXACT = "exact"


@dataclass(frozen=True)
class Granularity:
    """The family that a hint names; its members are told apart by `type`."""


@dataclass(frozen=True)
class PerTensor(Granularity):
    pass


@dataclass(frozen=True)
class PerGroup(Granularity):
    size: int = 32

    def __post_init__(self) -> None:
        if self.size < 1:
            raise ValueError(f"size must be at least 1, not {self.size}")


@dataclass(frozen=True)
class Narrow:
    """Keeps the first `share` of the hidden units of `Small`: a true, traced change of structure."""

    share: float = 0.5
    mode: Mode = Mode.EXACT
    granularity: Granularity = field(default_factory=PerTensor)
    layers: tuple[str, ...] = ()
    limit: int | None = None
    bounds: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, not {self.share}")

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        return [] if isinstance(model, Small) else [Problem("", "only Small can be narrowed")]

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        run.progress(0.5, "half way")
        kept = list(range(max(1, int(model.first.out_features * self.share))))
        return Applied(self.rebuild(model, {"kept": kept}, task.zeros()), {"kept": kept})

    def rebuild(self, model: nn.Module, resolved: dict[str, Any], inputs: Inputs) -> nn.Module:
        call(model, inputs)  # as a technique that traces would
        model = copy.deepcopy(model)
        kept = resolved["kept"]
        narrow = Small(hidden=len(kept), buffer=model.offset)
        narrow.first.weight.data = model.first.weight.data[kept].clone()
        narrow.first.bias.data = model.first.bias.data[kept].clone()
        narrow.last.weight.data = model.last.weight.data[:, kept].clone()
        narrow.last.bias.data = model.last.bias.data.clone()
        return narrow.eval()


@dataclass(frozen=True)
class Round:
    """Weights of `last` as 8-bit integers and a scale, kept as such: must come last."""

    bits: int = 8

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        return []

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        last = model.last
        scale = float(last.weight.detach().abs().max()) / 127
        rounded = self.rebuild(model, {"scale": scale}, task.zeros())
        rounded.last.weight = (last.weight.detach() / scale).round().to(torch.int8)
        rounded.last.bias.data = last.bias.data.clone()
        return Applied(rounded, {"scale": scale})

    def rebuild(self, model: nn.Module, resolved: dict[str, Any], inputs: Inputs) -> nn.Module:
        model = copy.deepcopy(model)
        model.last = IntegerLinear(model.last, resolved["scale"])
        return model.eval()


class IntegerLinear(nn.Module):
    weight: Tensor

    def __init__(self, like: nn.Linear, scale: float) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(like.weight.shape, dtype=torch.int8))
        self.register_buffer("step", torch.tensor(scale), persistent=False)
        self.bias = nn.Parameter(torch.zeros(like.out_features))

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.float() * self.step, self.bias)


class Small(nn.Module):
    """(N, 6) -> (N, 3), with a buffer that is in no state dict."""

    def __init__(self, hidden: int = 8, buffer: Tensor | None = None) -> None:
        super().__init__()
        self.first = nn.Linear(6, hidden)
        self.last = nn.Linear(hidden, 3)
        self.register_buffer("offset", torch.zeros(6) if buffer is None else buffer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x + self.offset).relu())


def task(model: nn.Module | None = None) -> Task:
    torch.manual_seed(0)
    pairs = (torch.randn(30, 6), torch.arange(30) % 3)
    return Task(model or Small(), pairs, pairs)


register("narrow", Narrow)
register("round", Round, final="integers cannot be changed further", once="rounding twice is rounding once")
