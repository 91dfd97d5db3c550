"""The roofs of this machine, measured: matrix products, copies of several sizes, and the smallest kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tenfold.cost.cpu import cpu_model
from tenfold.cost.device import Device
from tenfold.cost.kernel_terms import LARGEST_KEPT
from tenfold.cost.record import OperatorCost
from tenfold.cost.roofline import Machine, MemoryLevel
from tenfold.cost.stopwatch import OperatorTimes, operator_times

PROBE_S = 0.15  # spent on each figure
STOPWATCH_RUNS = 3  # in which every operator is timed
DTYPES = {
    "cpu": {"fp32": torch.float32},
    "cuda": {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16},
}
SIDE = {"cpu": 1024, "cuda": 8192}
COPIES = {"cpu": (1 << 18, 1 << 22, 1 << 27), "cuda": (1 << 24, 1 << 30)}  # bytes read and written together
MEASURED = "measured here by tenfold calibrate"


def probe(device: Device) -> Machine:
    """Peak rates, the bandwidth of each level of memory, and the time of the least kernel."""
    place = torch.device(device.kind)
    with threads(device), torch.inference_mode():
        peaks = {name: _product_rate(place, dtype) for name, dtype in DTYPES[device.kind].items()}
        levels = tuple(
            MemoryLevel(f"copy of {size >> 10} KiB", _copy_rate(place, size), None if last else size)
            for size, last in _with_last(COPIES[device.kind])
        )
        launch = _launch_seconds(place)
    name = torch.cuda.get_device_name() if device.kind == "cuda" else cpu_model()
    return Machine(
        name, device.kind, peaks, levels, launch, {"peaks, levels, launch_s": MEASURED}, measured=True
    )


def heartbeat(device: Device) -> Callable[[], float]:
    """A small fixed piece of work; calling it returns its seconds. What disturbs the machine shows in them.

    On a GPU most of it is launching: the processor is what varies.
    """
    place = torch.device(device.kind)
    side = 320 if device.kind == "cpu" else 2048
    a = torch.randn(side, side, device=place)
    scratch, least = torch.empty(1 << 19, device=place), torch.zeros(16, device=place)
    launches = 0 if device.kind == "cpu" else 64

    def beat() -> float:
        with threads(device), torch.inference_mode():
            begun = time.perf_counter()
            for _ in range(2):
                torch.mm(a, a)
                scratch.add_(1)
            for _ in range(launches):
                least.add_(1)
            synchronize(place)
            return time.perf_counter() - begun

    return beat


@dataclass(frozen=True)
class Prepared:
    """A module ready to be timed: calling it runs it, and `times` tells what its operators took in one run."""

    run: Callable[[], Any]
    times: Callable[[Sequence[OperatorCost]], OperatorTimes | None] | None = None

    def __call__(self) -> Any:
        return self.run()


def eager(device: Device) -> Callable[[nn.Module, Tensor], Prepared]:
    """Prepares modules to run eagerly on the device; a call returns when its result is there.

    On a GPU the channels of maps lie last, as its convolutions want them.
    """
    place = torch.device(device.kind)

    def prepare(module: nn.Module, inputs: Tensor) -> Prepared:
        module = module.to(place)
        if place.type == "cuda":
            module = module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        x = inputs.to(place)
        if place.type == "cuda" and x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)

        def run() -> None:
            with threads(device), torch.inference_mode():
                module(x)
                synchronize(place)

        def times(operators: Sequence[OperatorCost]) -> OperatorTimes | None:
            with threads(device):
                return operator_times(module, x, operators, place, STOPWATCH_RUNS)

        return Prepared(run, times)

    return prepare


def settle_allocator() -> None:
    """Bring the C library's allocator to the state of a process that has run for a while.

    glibc learns from what is freed: until it has seen a large block go, it takes every larger activation fresh from
    the system, page by page, and a network can take half as long again. Freeing one block just below its limit
    (32 MB) is what any process that has run a network of maps has done.
    """
    block = torch.empty(LARGEST_KEPT, dtype=torch.uint8)
    del block


def synchronize(place: torch.device) -> None:
    """Wait until the device has done what it was given; a CPU always has."""
    if place.type == "cuda":
        torch.cuda.synchronize()


@contextmanager
def threads(device: Device) -> Iterator[None]:
    """Let PyTorch use as many threads as the device names, within the block."""
    before = torch.get_num_threads()
    if device.kind == "cpu" and before != device.threads:
        torch.set_num_threads(device.threads)
    try:
        yield
    finally:
        if torch.get_num_threads() != before:
            torch.set_num_threads(before)


def best_seconds(call: Callable[[], Any], place: torch.device, inner: int = 1) -> float:
    """The lower quartile of the calls that fit into the probe's time: a roof is what undisturbed work reaches."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < 5 or time.perf_counter() - started < PROBE_S:
        begun = time.perf_counter()
        for _ in range(inner):
            call()
        synchronize(place)
        times.append((time.perf_counter() - begun) / inner)
    return float(np.quantile(times[2:], 0.25))


def _product_rate(place: torch.device, dtype: torch.dtype) -> float:
    side = SIDE[place.type]
    a, b = (torch.randn(side, side, device=place).to(dtype) for _ in range(2))
    return 2.0 * side**3 / best_seconds(lambda: torch.mm(a, b), place)


def _copy_rate(place: torch.device, size: int) -> float:
    source = torch.zeros(size // 8, device=place)  # half of the bytes are read, half written
    target = torch.empty_like(source)
    inner = max(1, (1 << 24) // size)
    return size / best_seconds(lambda: target.copy_(source), place, inner)


def _launch_seconds(place: torch.device) -> float:
    x = torch.zeros(16, device=place)
    return best_seconds(lambda: x.add_(1.0), place, inner=200)


def _with_last(sizes: tuple[int, ...]) -> list[tuple[int, bool]]:
    return [(size, number == len(sizes) - 1) for number, size in enumerate(sizes)]
