"""What calibration measures: samples as counted, as timed whole, and as timed kernel by kernel in their places."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tenfold.cost import calibration_networks
from tenfold.cost.calibration import Noise
from tenfold.cost.count import profile
from tenfold.cost.device import Device
from tenfold.cost.probing import Prepared, heartbeat
from tenfold.cost.record import OperatorCost, Profile
from tenfold.cost.stopwatch import OperatorTimes

Prepare = Callable[[nn.Module, Tensor], "Callable[[], Any]"]

CALLS_S = 0.06  # spent on timing one sample
MIN_CALLS, MAX_CALLS = 3, 40
AGAIN_SHARE = 0.1  # of the time, for timing a GPU's networks again
KEPT_SHARE = 0.25  # of the GPU's free memory, that these networks may hold until then
DISTURBED = 1.25  # times the usual heartbeat: the sample is timed again
TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BATCHES = {"cpu": (1, 1, 8, 4, 2), "cuda": (1, 8, 32, 256, 256)}
CHAIN_WORK = {"cpu": 6e8, "cuda": 2e11}  # multiply-adds of one chain, at most
NETWORK_WORK = {"cpu": 5e9, "cuda": 4e12}  # of one network: above it runs at batch 1


@dataclass(frozen=True)
class Observation:
    """A sample as counted and as timed: the median call, and half the interquartile range over it.

    `times` are those of its operators, each in its place, where the runtime tells them.
    """

    kind: str
    network: bool
    operators: tuple[OperatorCost, ...]
    seconds: float
    spread: float
    views: int = 0
    module_calls: int = 0
    times: OperatorTimes | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Observation:
        """The inverse of `to_json`."""
        times = data["times"]
        fields = {
            **data,
            "operators": tuple(map(operator_from_json, data["operators"])),
            "times": times
            and OperatorTimes(
                tuple(times["work"]),
                tuple(times["launching"]),
                tuple(map(operator_from_json, times.get("operators", ()))),
                times.get("ahead", False),
            ),
        }
        return cls(**fields)


def operator_from_json(data: Mapping[str, Any]) -> OperatorCost:
    """An operator out of its fields as JSON has them."""
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
    }
    fields["input_shapes"] = tuple(map(tuple, data["input_shapes"]))
    return OperatorCost(**fields)


def observe(
    device: Device,
    prepare: Prepare,
    started: float,
    deadline: float,
    seed: int,
    progress: Callable[[float, str], None],
    dtype: str = "fp32",
) -> tuple[list[Observation], Noise]:
    """Time samples until the deadline, with a heartbeat before and after each.

    What launches a GPU's kernels is often disturbed for seconds, which no heartbeat before a sample tells: networks
    are timed once more, much later, and the shorter time counts; as many as `KEPT_SHARE` of its memory holds.
    """
    beat = heartbeat(device)
    beats = [beat() for _ in range(20)][5:]
    found: list[Observation] = []
    calls: dict[int, Callable[[], Any]] = {}  # of the networks that are timed again
    ends = deadline - AGAIN_SHARE * (deadline - started) if device.kind == "cuda" else deadline
    repeated, room = 0, _room(device)
    drawn = calibration_networks.samples(seed, BATCHES[device.kind], CHAIN_WORK[device.kind])
    gc.collect()
    while not found or time.monotonic() < ends:
        sample = next(drawn)
        progress(
            (time.monotonic() - started) / (deadline - started), f"timing {sample.kind}, {len(found)} done"
        )
        module, inputs = sample.module.to(TORCH_DTYPES[dtype]), sample.inputs().to(TORCH_DTYPES[dtype])
        counted = profile(module, inputs)
        if len(inputs) > 1 and counted.macs > NETWORK_WORK[device.kind]:
            inputs = inputs[:1].contiguous()
            counted = profile(module, inputs)
        call = prepare(module, inputs)
        usual = float(np.median(beats))
        timed, after = _timed(call), beat()
        if max(beats[-1], after) > DISTURBED * usual and time.monotonic() < deadline:
            again = _timed(call)
            timed, repeated = min(timed, again), repeated + 1
        beats.append(after)
        held = counted.weight_bytes + inputs.nbytes
        if sample.network and held <= room:
            calls[len(found)] = call
            room -= held
        found.append(observed(sample.kind, sample.network, counted, timed, call))
    for number, call in calls.items():
        if time.monotonic() > deadline:
            break
        seconds, spread = min((found[number].seconds, found[number].spread), _timed(call))
        found[number] = replace(found[number], seconds=seconds, spread=spread)
    quarter, middle, three = np.quantile(beats, [0.25, 0.5, 0.75])
    return found, Noise(float((three - quarter) / 2 / middle), repeated)


def observed(
    kind: str, network: bool, counted: Profile, timed: tuple[float, float], call: Callable[[], Any]
) -> Observation:
    """The observation of one sample; its operators are timed too, where `call` can do that."""
    whole = Observation(kind, network, counted.operators, *timed, counted.views, counted.module_calls)
    if not isinstance(call, Prepared) or call.times is None:
        return whole
    return replace(whole, times=call.times(counted.operators))


def _room(device: Device) -> int:
    """The bytes that samples may hold until they are timed again: none where the processor itself is timed."""
    return int(KEPT_SHARE * torch.cuda.mem_get_info()[0]) if device.kind == "cuda" else 0


def _timed(call: Callable[[], Any]) -> tuple[float, float]:
    """The median of several calls, and half their interquartile range over it; the first two only warm up."""
    call()
    begun = time.perf_counter()
    call()
    once = time.perf_counter() - begun
    times = []
    for _ in range(int(np.clip(CALLS_S / max(once, 1e-7), MIN_CALLS, MAX_CALLS))):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    low, median, high = np.quantile(times, [0.25, 0.5, 0.75])
    return float(median), float((high - low) / 2 / median)
