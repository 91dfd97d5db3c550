"""Calibration: time chains and small networks on this machine for a minute, and fit the kernel model to them."""

from __future__ import annotations

import datetime
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tenfold.cost import calibration_networks
from tenfold.cost.calibration import Calibration, Noise, unseen_error
from tenfold.cost.count import profile
from tenfold.cost.cpu import cpu_features
from tenfold.cost.device import Device
from tenfold.cost.kernel_model import Fitted, Reference, Terms, fit, log_gradient, terms_of
from tenfold.cost.launches import kernels_of
from tenfold.cost.probing import eager, heartbeat, probe, settle_allocator
from tenfold.cost.provenance import environment
from tenfold.cost.record import OperatorCost
from tenfold.cost.roofline import Machine
from tenfold.errors import DeviceError

Prepare = Callable[[nn.Module, Tensor], Callable[[], Any]]
Progress = Callable[[float, str], None]

FIT_SHARE = 0.25  # of the time, kept for the fit and for its check
CALLS_S = 0.08  # spent on timing one sample
MIN_CALLS, MAX_CALLS = 3, 40
DISTURBED = 1.25  # times the usual heartbeat: the sample is timed again
CHAIN_NOISE, NETWORK_NOISE = 0.10, 0.04  # spread of the logarithm that the model is allowed
FOLDS = 5
TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
BATCHES = {"cpu": (1, 1, 8, 4, 2), "cuda": (1, 1, 8, 32, 256)}
CHAIN_WORK = {"cpu": 6e8, "cuda": 2e11}  # multiply-adds of one chain, at most


@dataclass(frozen=True)
class Observation:
    """A sample as counted and as timed: the median call, and half the interquartile range over it."""

    kind: str
    network: bool
    operators: tuple[OperatorCost, ...]
    seconds: float
    spread: float


def calibrate(
    device: Device,
    *,
    dtype: str = "fp32",
    prepare: Prepare | None = None,
    seconds: float = 60.0,
    seed: int = 0,
    progress: Progress = lambda share, text: None,
) -> Device:
    """Measure this machine for `seconds` and return `device` with roofs and a fitted predictor.

    `prepare(module, inputs)` makes the call that is timed; it must have finished when it returns. Without it the
    module runs eagerly in PyTorch. `dtype` ("fp32", "fp16" or "bf16") is what everything is counted and run in; the
    predictor serves networks of that type alone. The error that is stored was found by cross-validation, on networks that each
    fit had not seen.
    """
    started = time.monotonic()
    if device.kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("this machine has no CUDA device that PyTorch can use")
    if dtype not in TORCH_DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(TORCH_DTYPES)}, not {dtype!r}")
    prepare = prepare or eager(device)
    progress(0.0, "measuring the roofs")
    settle_allocator()
    machine = probe(device)
    reference = reference_of(device, machine, dtype)
    deadline = started + seconds * (1 - FIT_SHARE)
    found, beats = observe(
        device, prepare, started, deadline, seed, lambda s, t: progress(s * (1 - FIT_SHARE), t), dtype
    )
    progress(1 - FIT_SHARE, f"fitting to {len(found)} measurements")
    calibration = fitted_calibration(device, found, beats, reference, started)
    progress(1.0, "calibrated")
    return replace(device, machine=machine, calibration=calibration)


def reference_of(device: Device, machine: Machine, dtype: str = "fp32") -> Reference:
    """Where the parameters of the fit start."""
    if device.kind == "cuda":
        return Reference(
            machine.peak(dtype) / 2, machine.memory.bytes_per_s, 2 * machine.launch_s, 5e-6, block=8, floor_s=2e-6,
            asynchronous=True, dtype=dtype,
        )  # fmt: skip
    kernel_s = machine.launch_s * 2 if device.runtime == "torch" else 3e-6
    return Reference(
        machine.peak(dtype) / 2, machine.memory.bytes_per_s, kernel_s, 2e-5, block=vector_block()
    )


def vector_block() -> int:
    """Channels in a vector register of this processor: 16 with AVX-512, 8 with AVX2, else 4."""
    features = cpu_features()
    return 16 if "avx512f" in features else 8 if "avx2" in features else 4


def observe(
    device: Device,
    prepare: Prepare,
    started: float,
    deadline: float,
    seed: int,
    progress: Progress,
    dtype: str = "fp32",
) -> tuple[list[Observation], Noise]:
    """Time samples until the deadline, with a heartbeat before and after each."""
    beat = heartbeat(device)
    beats = [beat() for _ in range(20)][5:]
    found: list[Observation] = []
    repeated = 0
    drawn = calibration_networks.samples(seed, BATCHES[device.kind], CHAIN_WORK[device.kind])
    gc.collect()
    while time.monotonic() < deadline:
        sample = next(drawn)
        progress(
            (time.monotonic() - started) / (deadline - started), f"timing {sample.kind}, {len(found)} done"
        )
        module, inputs = sample.module.to(TORCH_DTYPES[dtype]), sample.inputs().to(TORCH_DTYPES[dtype])
        operators = profile(module, inputs).operators
        call = prepare(module, inputs)
        usual = float(np.median(beats))
        timed, after = _timed(call), beat()
        if max(beats[-1], after) > DISTURBED * usual and time.monotonic() < deadline:
            again = _timed(call)
            timed, repeated = min(timed, again), repeated + 1
        beats.append(after)
        found.append(Observation(sample.kind, sample.network, operators, *timed))
    quarter, middle, three = np.quantile(beats, [0.25, 0.5, 0.75])
    return found, Noise(float((three - quarter) / 2 / middle), repeated)


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


def fitted_calibration(
    device: Device, found: Sequence[Observation], noise: Noise, reference: Reference, started: float
) -> Calibration:
    """Fit to everything, and find the error by fits that each left out a fifth of the networks."""
    networks = [number for number, one in enumerate(found) if one.network]
    if len(networks) < 2 * FOLDS:
        raise DeviceError(
            f"only {len(networks)} networks could be timed in the time given; give calibration more seconds"
        )
    rows = [terms_of(kernels_of(one.operators, device, reference.block), reference) for one in found]
    seconds = [one.seconds for one in found]
    spreads = [
        float(np.hypot(NETWORK_NOISE if one.network else CHAIN_NOISE, min(one.spread, 0.5))) for one in found
    ]
    whole = fit(rows, seconds, spreads, reference)
    predicted, widths = {}, {}
    for fold in range(FOLDS):
        left_out = set(networks[fold::FOLDS])
        kept = [number for number in range(len(found)) if number not in left_out]
        part = fit(
            [rows[n] for n in kept], [seconds[n] for n in kept], [spreads[n] for n in kept], reference,
            start=whole.parameters, steps=12,
        )  # fmt: skip
        for number in left_out:
            predicted[number], widths[number] = predicted_log(rows[number], part, reference)
    residuals = np.array([predicted[n] - np.log(seconds[n]) for n in networks])
    spread = float(np.sqrt(np.mean(np.minimum(np.abs(residuals), 0.5) ** 2)))
    error = unseen_error(
        [float(np.exp(predicted[n])) for n in networks],
        [seconds[n] for n in networks],
        [float(np.hypot(spread, widths[n])) for n in networks],
    )
    return Calibration(
        reference,
        Fitted(whole.parameters, whole.covariance, spread),
        error,
        noise,
        len(found),
        time.monotonic() - started,
        environment(),
        datetime.date.today().isoformat(),
    )


def predicted_log(terms: Terms, fitted: Fitted, reference: Reference) -> tuple[float, float]:
    """The logarithm of the predicted seconds, and its standard deviation from the parameters' uncertainty."""
    log, slope = log_gradient(terms, fitted.parameters, reference)
    return log, float(np.sqrt(slope @ fitted.covariance @ slope))
