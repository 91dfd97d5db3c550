"""Calibration: time chains and small networks on this machine for a minute, and fit the kernel model to them."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from tenfold.cost.calibration import Calibration, Noise, conformal_spread, unseen_error
from tenfold.cost.cpu import cpu_features
from tenfold.cost.device import Device
from tenfold.cost.kernel_laws import launching_terms, network_terms, single_terms
from tenfold.cost.kernel_model import Fitted, fit, log_gradient
from tenfold.cost.kernel_terms import Array, Reference, Terms, stacked
from tenfold.cost.launches import kernels_of
from tenfold.cost.observing import TORCH_DTYPES, Observation, Prepare, observe
from tenfold.cost.probing import eager, probe, settle_allocator
from tenfold.cost.provenance import environment
from tenfold.cost.roofline import Machine
from tenfold.cost.stopwatch import OperatorTimes
from tenfold.cost.workload import eager_kernels
from tenfold.errors import DeviceError

Progress = Callable[[float, str], None]

FIT_SHARE = 0.12  # of the time, kept for the fit and for its check
# Spread of the logarithm that the model is allowed, and what the clock and the watching of a kernel may add.
CHAIN_NOISE, NETWORK_NOISE, KERNEL_NOISE = 0.10, 0.04, 0.15
CLOCK_S, SHORTEST_S = 3e-6, 1e-6
WAITED, WAITING_NOISE = (0.7, 2.0), 5.0  # work over launching where one may be the other, and what that adds
EVENTS_S = 2e-6  # what two events around a kernel of a GPU add to its time, about
MODULE_SHARE = 1 / 3  # of launching a kernel: the Python of a module, where launching is waited for
LAUNCHING_NOISE = 0.3  # of one operator's launching: processors are less steady than devices
MIN_NETWORKS = 10


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
        kernel_s = 2 * machine.launch_s
        return Reference(
            machine.peak(dtype) / 2, machine.memory.bytes_per_s, kernel_s, 5e-6, block=8, floor_s=4e-6,
            asynchronous=True, dtype=dtype, plain_macs_per_s=machine.peak("fp32") / 2, clock_s=EVENTS_S,
            module_s=MODULE_SHARE * kernel_s,
        )  # fmt: skip
    kernel_s = machine.launch_s * 2 if device.runtime == "torch" else 3e-6
    return Reference(
        machine.peak(dtype) / 2, machine.memory.bytes_per_s, kernel_s, 2e-5, block=vector_block()
    )


def vector_block() -> int:
    """Channels in a vector register of this processor: 16 with AVX-512, 8 with AVX2, else 4."""
    features = cpu_features()
    return 16 if "avx512f" in features else 8 if "avx2" in features else 4


@dataclass(frozen=True)
class Measured:
    """All that was timed as rows of terms: samples whole, and their kernels alone."""

    terms: Terms
    seconds: Array
    noise: Array
    sample: NDArray[np.int64]  # of each row
    whole: NDArray[np.bool_]  # whether a row is a whole sample

    def without(self, samples: Sequence[int]) -> Measured:
        """The rows of all other samples."""
        return self._taken(~np.isin(self.sample, samples))

    def only(self, samples: Sequence[int]) -> Measured:
        """The whole rows of these samples, in their order."""
        return self._taken(np.isin(self.sample, samples) & self.whole)

    def _taken(self, kept: NDArray[np.bool_]) -> Measured:
        return Measured(
            self.terms.taken(kept), self.seconds[kept], self.noise[kept], self.sample[kept], self.whole[kept]
        )


def measured_rows(device: Device, found: Sequence[Observation], reference: Reference) -> Measured:
    """The rows of all observations. Of a runtime that fuses, samples are what it is predicted to launch."""
    terms: list[Terms] = []
    seconds: list[float] = []
    noise: list[float] = []
    sample: list[int] = []
    whole: list[bool] = []
    for number, one in enumerate(found):
        kernels = kernels_of(one.operators, device, reference.block)
        views, modules = (one.views, one.module_calls) if device.runtime == "torch" else (0, 0)
        terms.append(network_terms(kernels, reference, views, modules))
        seconds.append(one.seconds)
        noise.append(float(np.hypot(NETWORK_NOISE if one.network else CHAIN_NOISE, min(one.spread, 0.5))))
        sample.append(number)
        whole.append(True)
        if one.times is None:
            continue
        timed = one.times.operators or one.operators
        alone = kernels_of(timed, device) if device.runtime == "torch" else eager_kernels(timed)
        terms.append(single_terms(alone, reference))
        seconds += [max(time, SHORTEST_S) for time in one.times.work]
        noise += kernel_noise(one.times, reference)
        sample += [number] * len(timed)
        whole += [False] * len(timed)
        if not reference.asynchronous:
            continue
        terms.append(launching_terms(alone, reference))
        seconds += one.times.launching
        noise += [LAUNCHING_NOISE] * len(timed)
        sample += [number] * len(timed)
        whole += [False] * len(timed)
    return Measured(stacked(terms), np.array(seconds), np.array(noise), np.array(sample), np.array(whole))


def kernel_noise(times: OperatorTimes, reference: Reference) -> list[float]:
    """The spread of the logarithm of every kernel's own time.

    Of one that takes hardly more than the floor the law says little, and there are many: they must not bend what is
    said of large ones. On a device of its own that the processor was not ahead of, what took about as long as its
    launching may have been waiting for it.
    """
    least = reference.floor_s or CLOCK_S
    found = [float(np.hypot(KERNEL_NOISE, least / max(work, SHORTEST_S))) for work in times.work]
    if not reference.asynchronous or times.ahead:
        return found
    low, high = WAITED
    return [
        float(np.hypot(noise, WAITING_NOISE)) if low * launching < work < high * launching else noise
        for noise, work, launching in zip(found, times.work, times.launching, strict=True)
    ]


def fitted_calibration(
    device: Device, found: Sequence[Observation], noise: Noise, reference: Reference, started: float
) -> Calibration:
    """Fit to everything, and find the error by fits that each left out the networks of one kind.

    The interval is as wide as the errors on kinds never seen ask for (`conformal_spread`). Its coverage is stated for each
    kind by the width that the other kinds ask for.
    """
    networks = [number for number, one in enumerate(found) if one.network]
    kinds = sorted({found[number].kind for number in networks})
    if len(networks) < MIN_NETWORKS or len(kinds) < 2:
        raise DeviceError(
            f"only {len(networks)} networks could be timed in the time given; give calibration more seconds"
        )
    rows = measured_rows(device, found, reference)
    whole = fit(rows.terms, rows.seconds, rows.noise, reference)
    logs, widths, truths, groups = [], [], [], []
    for kind in kinds:
        left_out = [number for number in networks if found[number].kind == kind]
        kept, unseen = rows.without(left_out), rows.only(left_out)
        part = fit(kept.terms, kept.seconds, kept.noise, reference, start=whole.parameters, steps=12)
        log, width = predicted_logs(unseen.terms, part, reference)
        logs.append(log)
        widths.append(width)
        truths.append(unseen.seconds)
        groups += [kind] * len(left_out)
    predicted, width, truth = np.concatenate(logs), np.concatenate(widths), np.concatenate(truths)
    errors, kind_of = np.abs(predicted - np.log(truth)), np.array(groups)
    others = {kind: conformal_spread(errors[kind_of != kind], width[kind_of != kind]) for kind in kinds}
    error = unseen_error(np.exp(predicted), truth, np.hypot([others[kind] for kind in groups], width))
    spread = conformal_spread(errors, width)
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


def predicted_logs(terms: Terms, fitted: Fitted, reference: Reference) -> tuple[Array, Array]:
    """The logarithm of the predicted seconds of rows, and its standard deviation from the parameters' uncertainty."""
    logs, slopes = log_gradient(terms, fitted.parameters, reference)
    return logs, np.sqrt(np.einsum("ri,ij,rj->r", slopes, fitted.covariance, slopes, optimize=True))
