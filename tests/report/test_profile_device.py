"""From a device to roofs and times: what the pictures show is what the prediction says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from tenfold.cost import Device, Prediction, catalogue_device, catalogue_names, predict_network, profile
from tenfold.report import roofs_of, times_of, view, write_profile


def network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 8)
    )


@pytest.mark.parametrize("name", catalogue_names())
def test_every_machine_of_the_catalogue_has_roofs_and_gives_times(name: str) -> None:
    device = catalogue_device(name)
    counted = profile(network(), torch.zeros(1, 3, 8, 8), device=device)
    roofs, times = roofs_of(device), times_of(counted, device)
    assert roofs is not None
    assert times is not None
    assert device.machine is not None
    assert roofs.peak == device.machine.peak("fp32")
    assert roofs.bandwidth == device.machine.memory.bytes_per_s
    assert times.total == predict_network(counted, device).ms
    assert sum(times.ms) == pytest.approx(times.total)
    assert (times.how, times.low, times.high) == ("limit", None, None)
    one = view(counted, "x", times)
    assert [layer.ms for layer in one.layers] == [layer.predicted_ms for layer in counted.layers]
    assert sum(one.share(bound) for bound in ("compute", "memory", "overhead")) == pytest.approx(1)


def test_a_type_without_a_peak_is_held_against_the_one_that_computes_it() -> None:
    npu = roofs_of(catalogue_device("phone-npu"), "fp32")
    assert npu is not None
    assert npu.dtype == "fp16"
    h200 = roofs_of(catalogue_device("h200"), "bf16")
    assert h200 is not None
    assert (h200.dtype, h200.level) == ("bf16", "HBM3e")
    assert "HBM3e" in h200.source


def test_nothing_is_known_of_a_plain_device() -> None:
    assert roofs_of(Device()) is None
    assert times_of(profile(network(), torch.zeros(1, 3, 8, 8)), Device()) is None


def test_a_calibrated_device_gives_a_prediction_with_its_interval(tmp_path: Path) -> None:
    known = catalogue_device("raspberry-pi-5")
    counted = profile(network(), torch.zeros(1, 3, 8, 8), device=known)
    counted = replace(counted, prediction=Prediction(2.0, 1.5, 2.5))
    calibrated = replace(known, calibration=object())  # type: ignore[arg-type]  # only its presence counts
    times = times_of(counted, calibrated)
    assert times is not None
    assert (times.total, times.low, times.high, times.how) == (2.0, 1.5, 2.5, "predicted")
    write_profile([view(counted, "x", times)], tmp_path / "p.html", roofs_of(known))
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "predicted, in fp32; 90% interval 1.50 to 2.50" in page
    assert "from a calibration of the device" in page
