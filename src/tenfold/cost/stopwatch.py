"""Times of single operators while a network runs eagerly, each in its place: with the caches as they then are.

A dispatch mode stands below autograd, where the counter stands, so that what it times are the operators of a
`Profile`. On a GPU events lie around every operator, and a sleeping kernel goes first: the processor runs ahead of
it, so that afterwards operators follow each other without gaps and an event pair holds the operator's kernels alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tenfold.cost.record import OperatorCost

SLEEP_CYCLES = (
    80_000  # of the sleeping kernel for each operator: about 40 µs at 2 GHz, more than launching one takes
)


@dataclass(frozen=True)
class OperatorTimes:
    """Seconds of each operator: on the device, and (of a GPU) of the processor that launches it.

    A runtime that makes its own operators out of the network's names them in `operators`; they are the network's
    own where that is empty. `ahead` says that the processor was done before a GPU began, so that none of the times of
    work holds any waiting for a launch.
    """

    work: tuple[float, ...]
    launching: tuple[float, ...] = ()
    operators: tuple[OperatorCost, ...] = ()
    ahead: bool = False


class Stopwatch(TorchDispatchMode):
    """Writes down the name and the times of every operator, views too."""

    def __init__(self, place: torch.device) -> None:
        super().__init__()
        self.names: list[str] = []
        self._cuda = place.type == "cuda"
        self._processor: list[float] = []
        self._events: list[tuple[Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(func._schema.name)
        before = _event() if self._cuda else None
        begun = time.perf_counter_ns()
        result = func(*args, **(kwargs or {}))
        self._processor.append((time.perf_counter_ns() - begun) * 1e-9)
        if self._cuda:
            self._events.append((before, _event()))
        return result

    def times(self) -> tuple[list[float], list[float]]:
        """Seconds on the device and of the processor, of each operator, once the device has finished."""
        if not self._cuda:
            return self._processor, self._processor
        torch.cuda.synchronize()
        return [begun.elapsed_time(ended) * 1e-3 for begun, ended in self._events], self._processor


def operator_times(
    module: Callable[..., Any], inputs: Any, operators: Sequence[OperatorCost], place: torch.device, runs: int
) -> OperatorTimes | None:
    """The median over `runs` of the times of each of `operators`, which `module(inputs)` runs; None where others ran."""
    passes, names, ahead = [], list[str](), []
    cycles = SLEEP_CYCLES * (2 * len(operators) + 20)
    for _ in range(runs):
        slept = _asleep(cycles) if place.type == "cuda" else None
        with torch.no_grad(), Stopwatch(place) as watch:
            module(inputs)
        ahead.append(slept is not None and not slept.query())
        cycles *= 1 if ahead[-1] else 2  # the sleep was too short for this processor
        passes.append(watch.times())
        names = watch.names
    chosen = places_of([operator.op for operator in operators], names)
    if chosen is None or len({len(work) for work, _ in passes}) > 1:
        return None
    passes = [one for one, good in zip(passes, ahead, strict=True) if good] or passes
    work, launching = np.median(np.array(passes), axis=0)[:, chosen].tolist()
    if place.type != "cuda":
        return OperatorTimes(tuple(work))
    return OperatorTimes(tuple(work), tuple(launching), ahead=any(ahead))


def places_of(wanted: Sequence[str], names: Sequence[str]) -> list[int] | None:
    """Where the `wanted` operators stand among all that ran, in order; None unless all are there."""
    found: list[int] = []
    at = 0
    for operator in map(_plain, wanted):
        while at < len(names) and _plain(names[at]) != operator:
            at += 1
        if at == len(names):
            return None
        found.append(at)
        at += 1
    return found


def _asleep(cycles: int) -> Any:
    """Put the device to sleep; the event that is there when it wakes."""
    torch.cuda._sleep(cycles)  # type: ignore[no-untyped-call]
    return _event()


def _event() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def _plain(name: str) -> str:
    """The name without its library; kernels that devices have in several makes share one."""
    short = name.removeprefix("aten::")
    return next((part for part in ("attention", "batch_norm", "convolution") if part in short), short)
