"""The kernel model: its derivatives, its recovery of known machines, and what it says of networks."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tenfold.cost import Device, annotate, catalogue_device, predict_network, profile, roofline_ms
from tenfold.cost.calibrating import fitted_calibration
from tenfold.cost.calibration import Noise
from tenfold.cost.calibration_networks import samples
from tenfold.cost.device import Machine
from tenfold.cost.fused_kernels import fused_kernels
from tenfold.cost.kernel_laws import network_terms, parameter_names, prior_spread, single_terms
from tenfold.cost.kernel_model import fit, kernel_seconds, log_gradient, totals
from tenfold.cost.kernel_terms import Reference, hats, is_fresh, padded_macs, stacked
from tenfold.cost.observing import Observation, observe
from tenfold.cost.probing import eager
from tenfold.cost.roofline import MemoryLevel
from tenfold.cost.workload import eager_kernels
from tenfold.errors import DeviceError

REFERENCE = Reference(5e10, 2e10, 2e-6, 2e-5)
MACHINE = Machine("made up", "cpu", {"fp32": 1e11}, (MemoryLevel("memory", 2e10),), 1e-6)


@pytest.fixture(scope="module")
def counted() -> list:
    """Networks and chains of calibration, counted: (sample, profile)."""
    drawn = samples(3, (1, 4), 1e9)
    return [
        (sample, profile(sample.module, torch.zeros(sample.shape)))
        for sample in (next(drawn) for _ in range(66))
    ]


def truth(terms, parameters, reference=REFERENCE) -> np.ndarray:
    return totals(terms, kernel_seconds(terms, parameters), parameters, reference).seconds


def test_the_gradient_is_that_of_finite_differences(counted):
    kernels = eager_kernels(counted[10][1].operators)
    terms = stacked([network_terms(kernels, REFERENCE, 30, 20), single_terms(kernels[:3], REFERENCE)])
    parameters = np.random.default_rng(0).normal(size=len(parameter_names(REFERENCE))) * 0.2
    log, slope = log_gradient(terms, parameters, REFERENCE)
    assert log == pytest.approx(np.log(truth(terms, parameters)))
    for number in np.flatnonzero(np.abs(slope).max(axis=0))[::5]:
        step = np.zeros_like(parameters)
        step[number] = 1e-5
        up, down = (log_gradient(terms, parameters + sign * step, REFERENCE)[0] for sign in (1, -1))
        assert slope[:, number] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-8)


def test_rows_are_the_same_alone_and_together(counted):
    parts = [network_terms(eager_kernels(one.operators), REFERENCE, 5, 7) for _, one in counted[:6]]
    together = stacked(parts)
    zero = np.zeros(len(parameter_names(REFERENCE)))
    assert truth(together, zero) == pytest.approx([truth(part, zero)[0] for part in parts])
    kept = np.array([False, True, True, False, False, True])
    assert truth(together.taken(kept), zero) == pytest.approx(truth(together, zero)[kept])


def test_kernels_timed_alone_sum_to_the_network_without_its_calls(counted):
    kernels = eager_kernels(counted[10][1].operators)
    zero = np.zeros(len(parameter_names(REFERENCE)))
    alone = truth(single_terms(kernels, REFERENCE), zero)
    whole = truth(network_terms(kernels, REFERENCE, 10, 20), zero)[0]
    assert alone.sum() == pytest.approx(whole - REFERENCE.calls_s @ [1, 10, 20])


def test_a_known_machine_is_recovered_on_networks_that_the_fit_has_not_seen(counted):
    generator = np.random.default_rng(1)
    known = generator.normal(size=len(parameter_names(REFERENCE))) * prior_spread(REFERENCE) * 0.5
    rows = stacked([network_terms(eager_kernels(one.operators), REFERENCE) for _, one in counted])
    times = truth(rows, known)
    networks = [number for number, (sample, _) in enumerate(counted) if sample.network]
    seen = ~np.isin(np.arange(len(counted)), networks[::3])
    fitted = fit(rows.taken(seen), times[seen], np.full(seen.sum(), 0.02), REFERENCE)
    assert (~seen).sum() >= 4
    unseen = rows.taken(~seen)
    errors = truth(unseen, fitted.parameters) / times[~seen] - 1
    plain = truth(unseen, 0 * known) / times[~seen] - 1
    assert np.mean(np.abs(errors)) < 0.1 < np.mean(np.abs(plain))


def test_one_wild_measurement_does_not_bend_the_fit(counted):
    rows = stacked([network_terms(eager_kernels(one.operators), REFERENCE) for _, one in counted])
    times = truth(rows, np.zeros(len(parameter_names(REFERENCE))))
    bent = times.copy()
    bent[5] *= 30.0
    fitted = fit(rows, bent, np.full(len(bent), 0.05), REFERENCE)
    errors = np.abs(np.log(truth(rows, fitted.parameters) / times))
    assert np.median(errors) < 0.05


def test_calibration_states_an_error_that_it_found_on_the_unseen(counted):
    device = Device("cpu", "torch")
    generator = np.random.default_rng(2)
    known = generator.normal(size=len(parameter_names(REFERENCE))) * 0.3
    found = []
    for sample, one in counted * 2:
        terms = network_terms(eager_kernels(one.operators), REFERENCE)
        time = truth(terms, known)[0] * math.exp(0.05 * generator.normal())
        found.append(Observation(sample.kind, sample.network, one.operators, time, 0.05))
    calibration = fitted_calibration(device, found, Noise(0.02), REFERENCE, 0.0)
    assert calibration.unseen.networks == sum(one.network for one in found)
    assert calibration.unseen.mape < 0.15
    assert calibration.unseen.coverage > 0.75
    predicted = predict_network(counted[10][1], replace(device, machine=MACHINE, calibration=calibration))
    assert predicted.how == "calibrated"
    assert predicted.low_ms < predicted.ms < predicted.high_ms
    assert sum(time.ms for time in predicted.kernels) + predicted.call_ms == pytest.approx(predicted.ms)
    assert min(time.ms for time in predicted.kernels) > 0
    noisy = replace(calibration, noise=Noise(0.3))
    wider = predict_network(counted[10][1], replace(device, machine=MACHINE, calibration=noisy))
    assert wider.high_ms / wider.low_ms > predicted.high_ms / predicted.low_ms
    with pytest.raises(DeviceError, match="give calibration more seconds"):
        fitted_calibration(device, found[:5], Noise(0.02), REFERENCE, 0.0)


def test_real_work_is_observed():
    import time

    device = Device("cpu", "torch")
    now = time.monotonic()
    found, noise = observe(device, eager(device), now, now + 1.0, 0, lambda share, text: None)
    assert found
    assert all(one.seconds > 0 and one.operators for one in found)
    assert noise.spread >= 0
    for one in found:
        assert one.times is not None
        assert len(one.times.work) == len(one.operators)
        assert min(one.times.work) > 0
        assert Observation.from_json(json.loads(json.dumps(one.to_json()))) == one


def test_samples_are_the_same_for_the_same_seed():
    first, second = (samples(5, (1, 2), 1e9) for _ in range(2))
    for _ in range(20):
        a, b = next(first), next(second)
        assert (a.kind, a.shape, a.network) == (b.kind, b.shape, b.network)
        assert sum(p.numel() for p in a.module.parameters()) == sum(p.numel() for p in b.module.parameters())


def test_hats_interpolate():
    assert hats(1.0)[0] == 1.0
    assert hats(1e15)[-1] == 1.0
    assert hats(2.0**21)[2:4] == pytest.approx([0.5, 0.5])
    assert sum(hats(12345678.0)) == pytest.approx(1.0)


def test_an_output_that_the_allocator_does_not_keep_is_a_step_and_not_a_slope():
    """Outputs of 50 MB cost four times what their bytes do; nothing larger was seen, and those must not cost more."""

    def kernel(megabytes: float):
        side = round(math.sqrt(megabytes * 1e6 / 4))
        (found,) = eager_kernels(
            profile(nn.ReLU(), torch.empty(1, device="meta").expand(side, side)).operators
        )
        return found

    sizes = np.geomspace(0.1, 50, 40)
    terms = single_terms([kernel(size) for size in sizes], REFERENCE)
    seconds = 2e-6 + sizes * 2e6 / 2e10 * np.where(sizes > 32, 4.0, 1.0)
    found = fit(terms, seconds, np.full(40, 0.05), REFERENCE)
    large = single_terms([kernel(200)], REFERENCE)
    (told,) = truth(large, found.parameters)
    assert told == pytest.approx(200 * 2e6 / 2e10 * 4, rel=0.4)
    (in_place,) = eager_kernels(profile(nn.ReLU(inplace=True), torch.zeros(3000, 3000)).operators)
    assert not is_fresh(in_place)
    assert is_fresh(kernel(36))


def test_channels_fill_whole_vectors():
    narrow, wide = (
        eager_kernels(profile(nn.Conv2d(16, width, 1), torch.zeros(1, 16, 8, 8)).operators)[0]
        for width in (17, 32)
    )
    assert padded_macs(narrow, 16) == pytest.approx(padded_macs(wide, 16))
    assert padded_macs(wide, 16) == wide.macs


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 32, 1)
        self.norm, self.act = nn.BatchNorm2d(32), nn.ReLU()

    def forward(self, x):
        return self.act(self.two(self.act(self.norm(self.one(x)))) + x)


def test_what_onnx_runtime_fuses():
    counted = profile(
        nn.Sequential(
            nn.Conv2d(3, 32, 3),
            nn.ReLU(),
            Block(),
            nn.GELU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(32, 10),
        ),
        torch.zeros(1, 3, 16, 16),
    )
    kernels = fused_kernels(counted.operators)
    assert [kernel.family for kernel in kernels] == [
        "stem", "convolution", "pointwise convolution", "gelu", "reduction", "reorder", "linear",
    ]  # fmt: skip
    members = [[counted.operators[number].op.strip("_") for number in kernel.operators] for kernel in kernels]
    assert members[:3] == [
        ["convolution", "relu"], ["convolution", "native_batch_norm" if "native_batch_norm" in members[1] else members[1][1], "relu"],
        ["convolution", "add", "relu"],
    ]  # fmt: skip
    joined = [number for kernel in kernels for number in kernel.operators]
    assert sorted(joined) == list(range(len(counted.operators)))  # nothing is lost


def test_channels_that_fill_no_block_stay_in_the_plain_layout():
    families = [
        kernel.family
        for kernel in fused_kernels(
            profile(
                nn.Sequential(nn.Conv2d(32, 30, 1), nn.Conv2d(30, 32, 1)), torch.zeros(1, 32, 8, 8)
            ).operators
        )
    ]
    assert families == ["pointwise convolution", "reorder", "pointwise convolution"]


def test_a_layer_is_told_its_time_and_its_bound():
    network = nn.Sequential(nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Softmax(1))
    device = Device("cpu", "onnxruntime", machine=MACHINE)
    counted = profile(network, torch.zeros(1, 8, 16, 16), device=device)
    by_name = {layer.name: layer for layer in counted.layers}
    assert by_name["1"].bound == by_name["2"].bound == "fused"
    assert by_name["0"].bound in ("compute", "memory", "overhead")
    assert sum(layer.predicted_ms for layer in counted.layers) == pytest.approx(counted.predicted_ms)
    assert counted.to_json()["prediction"]["ms"] == counted.predicted_ms
    assert annotate(profile(network, torch.zeros(1, 8, 16, 16)), device).layers == counted.layers


def test_an_unknown_operator_is_not_free():
    @torch.library.custom_op("tenfold_tests::mystery", mutates_args=())
    def mystery(x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @mystery.register_fake
    def _(x):
        return torch.empty_like(x)

    class Uses(nn.Module):
        def forward(self, x):
            return torch.ops.tenfold_tests.mystery(x)

    counted = profile(Uses(), torch.zeros(1, 64, 64))
    assert counted.unknown
    predicted = predict_network(counted, Device("cpu", "torch", machine=MACHINE))
    assert predicted.ms > 0


def test_a_machine_of_the_catalogue_gives_a_roofline_that_says_so():
    counted = profile(nn.Conv2d(64, 64, 3), torch.zeros(8, 64, 56, 56))
    device = catalogue_device("a100")
    predicted = predict_network(counted, device)
    assert predicted.how == "roofline"
    assert predicted.low_ms == predicted.ms < predicted.high_ms
    assert roofline_ms(counted, device) < predicted.ms
    with pytest.raises(DeviceError, match="nothing is known"):
        predict_network(counted, Device())
