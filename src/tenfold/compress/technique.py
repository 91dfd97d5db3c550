"""The contract of a technique: what turns a network into a cheaper one."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from tenfold.compress.quantized import already_quantized
from tenfold.cost import Device, Inputs, as_args, map_inputs
from tenfold.data import Task
from tenfold.data.checks import evaluated
from tenfold.errors import NetworkError, OutOfTime, RecipeError
from tenfold.naming import described
from tenfold.training.precision import device_of

Json = dict[str, Any]
STAGE = "-stage"  # in the names of checkpoints, before the number of a stage


@dataclass(frozen=True)
class Problem:
    """A reason why a technique would fail or be useless: the layer (or "" for the whole network) and the text."""

    layer: str
    text: str

    def __str__(self) -> str:
        return f"{self.layer}: {self.text}" if self.layer else self.text


@dataclass(frozen=True)
class Applied:
    """A changed network, and what was decided, as plain JSON from which `rebuild` repeats the change.

    `renamed` gives the former name of each module that bears another one now.
    """

    model: nn.Module
    resolved: Json
    renamed: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Run:
    """What a technique may use while it works, beside the network and the task.

    `deadline` is a `time.monotonic()` value by which it must return; `teacher` what teaches: the original
    network, another one or several (`training.Ensemble`), never changed; `progress(fraction, text)` may be called at any
    rate; `folder` is for caches that may be kept
    between techniques of one job; `cache` holds values shared in memory (teacher outputs, for instance).
    `checkpoint` is a file where long work keeps how far it is, to go on from when it is called again with the same; work
    of several stages has one for each beside it, `stage(1)` and so on.
    `train_on` is the device that healing takes place on, by default the one that the network lies on, to which it comes
    back; rounding that is learnt stays there throughout.
    `latency(model)` measures the milliseconds of one call through the runtime that will serve the network; None
    where nothing can.
    `origins` gives the name in the teacher of each module of the network at hand, whatever was renamed on the way
    from there; None where that way is not known.
    """

    seed: int = 0
    deadline: float = float("inf")
    progress: Callable[[float, str], None] = lambda fraction, text: None
    device: Device = field(default_factory=Device)
    folder: Path | None = None
    checkpoint: Path | None = None
    teacher: nn.Module | None = None
    train_on: torch.device | None = None
    cache: dict[str, Any] = field(default_factory=dict)
    latency: Callable[[nn.Module], float] | None = None
    origins: Mapping[str, str] | None = None

    def seconds_left(self) -> float:
        """Seconds until the deadline (infinite without one)."""
        return self.deadline - time.monotonic()

    def part(self, start: float, end: float) -> Run:
        """The same run for a part of the work: what it says from 0 to 1 is told as from `start` to `end`."""
        return replace(
            self, progress=lambda fraction, text: self.progress(start + (end - start) * fraction, text)
        )

    def stage(self, number: int) -> Run:
        """The same run for one of several trainings of a technique, which keeps how far it is in a file of its own."""
        if self.checkpoint is None:
            return self
        return replace(self, checkpoint=self.checkpoint.with_stem(f"{self.checkpoint.stem}{STAGE}{number}"))

    def place(self, model: nn.Module) -> torch.device:
        """Where `model` is to be trained."""
        return self.train_on or device_of(model)

    def require_time(self, work: str) -> None:
        """Raise `OutOfTime`, which names the work, once the deadline is past."""
        if self.seconds_left() < 0:
            raise OutOfTime(f"the time was over before the end of {work}")

    def require_latency(self) -> Callable[[nn.Module], float]:
        """What measures a network; `RecipeError` where nothing does."""
        if self.latency is None:
            raise RecipeError(
                "target_latency needs a runtime to measure by: use `tenfold apply`, or give Run(latency=…)"
            )
        return self.latency


def quantized(model: nn.Module) -> list[Problem]:
    """That the network is quantised already, where that is so: every preflight asks it first."""
    text = already_quantized(model)
    return [Problem("", text)] if text else []


def unrunnable(model: nn.Module, task: Task) -> list[Problem]:
    """That the network does not run on an example of the task's shape, and in which layer, where that is so."""
    place = device_of(model)
    try:
        evaluated(model, map_inputs(lambda tensor: tensor.to(place), task.zeros(1)))
    except (NetworkError, TypeError) as error:
        return [Problem("", described(error) if isinstance(error, TypeError) else str(error))]
    return []


def apart(model: nn.Module, inputs: Inputs) -> str:
    """That the network and its inputs lie on different devices, and what to do, where that is so; else "".

    Said in place of PyTorch's words by whatever runs or traces the network on data as they lie. Only where that fails:
    a network may move its inputs by itself.
    """
    args, kwargs = as_args(inputs)
    given = {tensor.device for tensor in (*args, *kwargs.values())}
    places = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if not places or not given or not places.isdisjoint(given):
        return ""
    own, others = (", ".join(sorted(map(str, devices))) for devices in (places, given))
    return (
        f"the network lies on {own} and its inputs on {others}: give it as model.cpu() with data on the cpu; what trains "
        "goes to Run.train_on and comes back"
    )


def misplaced(model: nn.Module, task: Task) -> list[Problem]:
    """That the network does not run on the task's examples where they lie, for techniques that run it there."""
    inputs = task.zeros(1)
    text = apart(model, inputs)
    if not text:
        return []
    try:
        evaluated(model, inputs)
    except (NetworkError, TypeError):
        return [Problem("", text)]
    return []


@runtime_checkable
class Foreseeing(Protocol):
    """A technique that can tell, before any work, what later steps of a recipe will meet."""

    def foresee(self, model: nn.Module, task: Task) -> nn.Module | None:
        """A network of the structure that `apply` gives, its weights any finite ones; None where data decide it.

        Only asked where `preflight` found nothing. Seconds; reads no data.
        """
        ...


@runtime_checkable
class Technique(Protocol):
    """A frozen dataclass of parameters with three methods. None of them edits the network it is given.

    One that is `Foreseeing` too lets the steps after it be checked at once, others when they are done.
    """

    def preflight(self, model: nn.Module, task: Task, target: Device) -> list[Problem]:
        """The problems that would make it fail or be useless, each naming a layer. Seconds; reads no data."""
        ...

    def apply(self, model: nn.Module, task: Task, run: Run) -> Applied:
        """The changed network in eval mode. May read `task.train`, never `task.test`."""
        ...

    def rebuild(self, model: nn.Module, resolved: Json, inputs: Inputs) -> nn.Module:
        """Repeat the structural change from `resolved` alone; weights are loaded afterwards.

        `inputs` are example inputs of batch 1 or 2, zeros of the right shapes, for techniques that must trace.
        """
        ...
