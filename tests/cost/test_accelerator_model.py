"""The law of a device that runs apart from the processor: what it holds for, and what a fit to it makes of large work."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tenfold.cost import Device, catalogue_device, predict_network, profile
from tenfold.cost.accelerator_terms import FULL, WIDTHS
from tenfold.cost.calibrating import WAITING_NOISE, kernel_noise, measured_rows, reference_of
from tenfold.cost.calibration import Calibration, Noise, UnseenError
from tenfold.cost.calibration_networks import samples
from tenfold.cost.kernel_laws import (
    launching_terms,
    network_terms,
    parameter_names,
    prior_spread,
    single_terms,
)
from tenfold.cost.kernel_model import Fitted, fit, kernel_seconds, log_gradient, totals
from tenfold.cost.kernel_terms import Reference, stacked
from tenfold.cost.launches import kernels_of
from tenfold.cost.observing import Observation
from tenfold.cost.stopwatch import OperatorTimes

GPU = Device("cuda", "torch")
REFERENCE = Reference(
    4e14, 3e12, 1.6e-5, 5e-6, block=8, floor_s=4e-6, asynchronous=True, plain_macs_per_s=2.5e13, clock_s=2e-6,
)  # fmt: skip


def counted_samples(batches: tuple[int, ...], number: int) -> list:
    """Samples of calibration, counted without running them: (sample, profile)."""
    drawn = samples(3, batches, 2e11)
    found = [next(drawn) for _ in range(number)]
    return [(one, profile(one.module, torch.empty(one.shape))) for one in found]


@pytest.fixture(scope="module")
def small() -> list:
    return counted_samples((1, 8, 32), 60)


class Doubled(nn.Module):
    def forward(self, x):
        return torch.cat((x, x), 1)


def truth(terms, parameters) -> np.ndarray:
    return totals(terms, kernel_seconds(terms, parameters), parameters, REFERENCE).seconds


def zero() -> np.ndarray:
    return np.zeros(len(parameter_names(REFERENCE)))


def a_kernel(module: nn.Module, shape: tuple[int, ...]):
    return kernels_of(profile(module, torch.empty(shape)).operators, GPU)


def alone(kernels) -> np.ndarray:
    """Seconds of the operators at the roofs, without the clock."""
    return truth(single_terms(kernels, REFERENCE), zero()) - REFERENCE.clock_s


def test_the_gradient_is_that_of_finite_differences(small):
    kernels = kernels_of(small[5][1].operators, GPU)
    parts = [
        network_terms(kernels, REFERENCE, 30, 20),
        single_terms(kernels, REFERENCE),
        launching_terms(kernels, REFERENCE),
    ]
    terms = stacked(parts)
    parameters = np.random.default_rng(0).normal(size=len(zero())) * 0.2
    log, slope = log_gradient(terms, parameters, REFERENCE)
    assert log == pytest.approx(np.log(truth(terms, parameters)))
    for number in np.flatnonzero(np.abs(slope).max(axis=0)):
        step = np.zeros_like(parameters)
        step[number] = 1e-5
        up, down = (log_gradient(terms, parameters + sign * step, REFERENCE)[0] for sign in (1, -1))
        assert slope[:, number] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-8)


def test_every_parameter_of_every_kernel_has_its_place(small):
    terms = stacked([network_terms(kernels_of(one.operators, GPU), REFERENCE) for _, one in small])
    assert tuple(column.shape[1] for column in terms.columns) == WIDTHS
    assert (prior_spread(REFERENCE) > 0).all()
    assert len(set(parameter_names(REFERENCE))) == len(parameter_names(REFERENCE))


def test_twice_the_batch_is_twice_the_work_once_a_kernel_is_large():
    relu = [alone(a_kernel(nn.ReLU(), (batch, 64, 112, 112)))[0] for batch in (128, 256)]
    assert relu[1] - REFERENCE.floor_s == pytest.approx(2 * (relu[0] - REFERENCE.floor_s), rel=1e-6)
    assert relu[1] == pytest.approx(REFERENCE.floor_s + 2 * 256 * 64 * 112**2 * 4 / REFERENCE.bytes_per_s)
    tiny = alone(a_kernel(nn.ReLU(), (1, 8, 4, 4)))[0]
    assert tiny == pytest.approx(REFERENCE.floor_s, rel=1e-3)  # and hardly any of a small one


def test_of_computing_and_moving_the_longer_counts():
    balanced = alone(a_kernel(nn.Linear(1024, 1024, bias=False), (1 << 16, 1024)))[0] - REFERENCE.floor_s
    compute = 2**16 * 2**20 / REFERENCE.macs_per_s
    memory = (2 * 2**26 + 2**20) * 4 / REFERENCE.bytes_per_s
    assert max(compute, memory) < balanced < compute + memory
    assert balanced == pytest.approx((compute**3 + memory**3) ** (1 / 3))


def test_a_network_takes_the_longer_of_launching_and_work():
    network = nn.Sequential(*(nn.ReLU() for _ in range(50)))
    for shape, longer in (((1, 8, 8, 8), "launching"), ((256, 64, 112, 112), "work")):
        kernels = a_kernel(network, shape)
        whole = truth(network_terms(kernels, REFERENCE), zero())[0] - REFERENCE.call_s
        work = alone(kernels).sum()
        launching = truth(launching_terms(kernels, REFERENCE), zero()).sum()
        assert launching == pytest.approx(50 * REFERENCE.kernel_s)
        assert whole == pytest.approx(max(work, launching), rel=0.02)
        assert (launching > work) == (longer == "launching")


def test_a_bias_is_added_by_a_kernel_of_its_own_and_timed_with_the_convolution():
    with_bias, without = (
        a_kernel(nn.Sequential(nn.Conv2d(64, 256, 1, bias=bias), nn.ReLU()), (64, 64, 56, 56))
        for bias in (True, False)
    )
    assert [kernel.family for kernel in with_bias] == ["pointwise convolution", "broadcast", "light"]
    assert [kernel.family for kernel in without] == ["pointwise convolution", "light"]
    times = alone(with_bias)
    assert len(times) == 2
    again = 2 * with_bias[0].written_bytes / REFERENCE.bytes_per_s + REFERENCE.floor_s
    assert times[0] - alone(without)[0] == pytest.approx(again, rel=0.01)
    assert len(kernels_of(profile(nn.Conv2d(3, 8, 3), torch.zeros(1, 3, 8, 8)).operators, Device())) == 1


def test_few_outputs_take_as_long_as_those_that_fill_the_device():
    few, filled, more = (
        single_terms(a_kernel(nn.Linear(4096, 4096, bias=False), (rows, 4096)), REFERENCE).base[0, 1]
        for rows in (8, FULL // 4096, FULL // 1024)
    )
    assert few == pytest.approx(filled)
    assert more == pytest.approx(4 * filled)


def test_padding_streams_as_a_function_of_single_elements_does():
    names = parameter_names(REFERENCE)
    padded = single_terms(a_kernel(nn.ConstantPad2d(1, 1.0), (256, 64, 56, 56)), REFERENCE)
    raised = zero()
    raised[names.index("memory/light")] = 1.0
    assert truth(padded, raised)[0] > 2 * truth(padded, zero())[0]


def test_a_window_smaller_than_its_stride_leaves_inputs_in_memory():
    dense, strided = (
        a_kernel(nn.Conv2d(256, 64, 1, stride=stride, bias=False), (256, 256, 56, 56)) for stride in (1, 2)
    )
    read, written, weights = dense[0].read_bytes, strided[0].written_bytes, strided[0].weight_bytes
    base = single_terms(strided, REFERENCE).base[0, 2]
    assert base == pytest.approx((read / 4 + written + weights) / REFERENCE.bytes_per_s)


def test_short_rows_and_other_implementations_have_parameters_of_their_own():
    names = parameter_names(REFERENCE)
    modules: dict[str, nn.Module] = {
        "memory/norm/row": nn.LayerNorm(56), "memory/norm/group": nn.GroupNorm(1, 64), "memory/concat/row": Doubled(),
        "memory/pool/average": nn.AvgPool2d(2), "memory/pool/window": nn.MaxPool2d(2),
        "memory/batch norm/row": nn.BatchNorm2d(64).eval(), "memory/norm/group/fill": nn.GroupNorm(1, 64),
    }  # fmt: skip
    for name, module in modules.items():
        shape = (16 if name.endswith("fill") else 256, 64, 56, 56)
        terms = single_terms(a_kernel(module, shape), REFERENCE)
        raised = zero()
        raised[names.index(name)] = 1.0
        assert truth(terms, raised)[-1] > 1.1 * truth(terms, zero())[-1], name
    other = single_terms(a_kernel(nn.MaxPool2d(2), (256, 64, 56, 56)), REFERENCE)
    raised = zero()
    raised[names.index("memory/pool/average")] = 1.0
    assert truth(other, raised) == pytest.approx(truth(other, zero()))


def test_a_fit_to_smaller_batches_holds_for_larger_ones(small):
    generator = np.random.default_rng(4)
    known = generator.normal(size=len(zero())) * prior_spread(REFERENCE) * 0.6
    found = []
    for sample, one in small:
        kernels = kernels_of(one.operators, GPU)
        work = truth(single_terms(kernels, REFERENCE), known)
        launching = truth(launching_terms(kernels, REFERENCE), known)
        time = truth(network_terms(kernels, REFERENCE, one.views, one.module_calls), known)[0]
        noisy = [values * np.exp(0.05 * generator.normal(size=len(values))) for values in (work, launching)]
        times = OperatorTimes(*map(tuple, noisy), ahead=True)
        found.append(
            Observation(
                sample.kind, sample.network, one.operators, time, 0.02, one.views, one.module_calls, times
            )
        )
    rows = measured_rows(GPU, found, REFERENCE)
    assert len(rows.seconds) == sum(1 + 2 * len(one.operators) for one in found)
    fitted = fit(rows.terms, rows.seconds, rows.noise, REFERENCE)
    large = [one for sample, one in counted_samples((256,), 30) if sample.network]
    terms = stacked([network_terms(kernels_of(one.operators, GPU), REFERENCE) for one in large])
    errors = truth(terms, fitted.parameters) / truth(terms, known) - 1
    plain = truth(terms, zero()) / truth(terms, known) - 1
    assert np.mean(np.abs(errors)) < 0.1 < np.mean(np.abs(plain))


def test_what_may_have_waited_for_its_launch_counts_for_nothing():
    times = OperatorTimes((1e-4, 4e-5, 1e-3, 5e-6), (8e-5, 8e-5, 8e-5, 8e-5))
    waited, short, long, tiny = kernel_noise(times, REFERENCE)
    assert waited > WAITING_NOISE > 10 * max(short, long)
    assert WAITING_NOISE > 5 * tiny > 20 * long  # mostly the floor: it says little of the law
    assert max(kernel_noise(replace(times, ahead=True), REFERENCE)) < 1
    one = Observation("made up", False, (), 1.0, 0.0, times=replace(times, ahead=True))
    assert Observation.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_the_parts_of_a_prediction_sum_to_it():
    generator = np.random.default_rng(5)
    size = len(zero())
    calibration = Calibration(
        replace(REFERENCE, dtype="fp32"), Fitted(generator.normal(size=size) * 0.1, np.eye(size) * 1e-4, 0.05),
        UnseenError(20, 0.07, 0.99, 0.08, 0.9), Noise(0.02), 100, 60.0, {}, "2026-11-22",
    )  # fmt: skip
    device = replace(GPU, machine=catalogue_device("a100").machine, calibration=calibration)
    network = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), nn.ReLU()).eval()
    predicted = predict_network(profile(network, torch.empty(64, 3, 112, 112)), device)
    assert sum(time.ms for time in predicted.kernels) + predicted.call_ms == pytest.approx(predicted.ms)
    assert predicted.bound == "memory"
    small = predict_network(profile(network, torch.zeros(1, 3, 8, 8)), device)
    assert small.bound == "overhead"


def test_the_reference_of_a_cuda_device_overlaps_launches():
    machine = catalogue_device("a100").machine
    assert machine is not None
    reference = reference_of(GPU, machine, "fp16")
    assert reference.asynchronous
    assert reference.macs_per_s == 156e12
    assert reference.plain_macs_per_s < reference.macs_per_s
