"""Devices: targets, their files, the catalogue and the arithmetic of roofs."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tenfold.cost import (
    Device,
    Machine,
    MemoryLevel,
    attainable,
    catalogue_device,
    catalogue_machine,
    catalogue_names,
    read_device,
    ridge,
)
from tenfold.cost.calibration import Calibration, Noise, UnseenError, unseen_error
from tenfold.cost.kernel_laws import parameter_names
from tenfold.cost.kernel_model import Fitted, Reference
from tenfold.cost.roofline import bound_of, level_of, roofline_parts
from tenfold.errors import DeviceError

MACHINE = Machine(
    "made up",
    "cpu",
    {"fp32": 1e12, "int8": 4e12},
    (MemoryLevel("cache", 1e12, 1 << 20), MemoryLevel("memory", 1e11)),
    1e-6,
)


def calibrated(seed: int = 0, asynchronous: bool = False) -> Device:
    generator = np.random.default_rng(seed)
    reference = Reference(5e11, 1e11, 1e-6, 1e-5, asynchronous=asynchronous)
    size = len(parameter_names(reference))
    spread = generator.normal(size=(size, size)) * 1e-3
    calibration = Calibration(
        reference,
        Fitted(generator.normal(size=size) * 0.1, spread @ spread.T, 0.05),
        UnseenError(20, 0.07, 0.99, 0.08, 0.9),
        Noise(0.02),
        100,
        60.0,
        {"cpu": "made up"},
        "2026-11-22",
    )
    return Device("cpu", "torch", 2, 4, MACHINE, calibration)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_device_is_read_as_it_was_saved(tmp_path, asynchronous):
    device = calibrated(asynchronous=asynchronous)
    device.save(tmp_path / "device.json")
    read = Device.load(tmp_path / "device.json")
    assert read == device
    assert read.machine == MACHINE
    assert read.calibration is not None
    assert device.calibration is not None
    assert read.calibration.unseen == device.calibration.unseen
    assert read.calibration.reference == device.calibration.reference
    np.testing.assert_allclose(
        read.calibration.fitted.parameters, device.calibration.fitted.parameters, rtol=1e-5
    )
    np.testing.assert_allclose(
        read.calibration.fitted.covariance, device.calibration.fitted.covariance, rtol=1e-3
    )


def test_a_target_alone_can_be_saved(tmp_path):
    Device(threads=2).save(tmp_path / "device.json")
    assert Device.load(tmp_path / "device.json") == Device(threads=2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: {**data, "version": 1}, "format version 1"),
        (lambda data: {**data, "version": 3}, "format version 3"),
        (lambda data: {**data, "format": "other"}, "no device file"),
        (lambda data: [data], "no device file"),
        (lambda data: {k: v for k, v in data.items() if k != "machine"}, "'machine' is missing"),
        (lambda data: {**data, "threads": 0}, "threads must be"),
        (lambda data: {**data, "kind": "abacus"}, "kind must be one of"),
        (lambda data: {**data, "machine": {**data["machine"], "peaks": {}}}, "needs a peak"),
        (lambda data: _with(data, "covariance", [1.0]), "covariance has 1 numbers"),
        (lambda data: _with(data, "parameters", {"call": 1.0}), "not as this release has it"),
        (lambda data: _with(data, "noise", {"spread": 0.1, "extra": 1}), "unexpected keyword"),
        (lambda data: _with(data, "samples", None), "damaged"),
    ],
)
def test_a_damaged_or_foreign_file_is_refused(tmp_path, change, message):
    path = tmp_path / "device.json"
    path.write_text(json.dumps(change(calibrated().to_json())))
    with pytest.raises(DeviceError, match=message):
        Device.load(path)


def _with(data: dict, key: str, value: object) -> dict:
    return {**data, "calibration": {**data["calibration"], key: value}}


@pytest.mark.parametrize("text", ["", "{", "\x00", '{"format": NaN}', "[" * 100000])
def test_what_is_no_json_is_refused(tmp_path, text):
    (tmp_path / "device.json").write_text(text)
    with pytest.raises(DeviceError, match="damaged"):
        Device.load(tmp_path / "device.json")


def test_a_missing_file_and_bytes_are_told(tmp_path):
    with pytest.raises(DeviceError, match="tenfold calibrate makes a device file"):
        Device.load(tmp_path / "none.json")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DeviceError, match="not text"):
        Device.load(tmp_path / "bytes.json")


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(0, 2000))
def test_a_file_cut_short_is_refused(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("cut") / "device.json"
    text = json.dumps(Device(machine=MACHINE).to_json())
    path.write_text(text[: cut % len(text)])
    with pytest.raises(DeviceError):
        Device.load(path)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "abacus"},
        {"runtime": "tflite"},
        {"threads": 0},
        {"batch": 1.5},
        {"threads": True},
        {"kind": "cuda"},
    ],
)
def test_a_target_that_cannot_be(options):
    with pytest.raises(
        DeviceError, match=r"must be|onnxruntime serves.*: give Device\('cuda', 'torch'\)"
    ) as told:
        Device(**options)
    assert isinstance(told.value, ValueError)  # as of other values that cannot be


def test_every_machine_of_the_catalogue_has_sources_for_its_figures():
    assert {"cpu", "a100", "tensor-core", "tpu-v4", "phone-npu", "h200", "h100", "raspberry-pi-5"} <= set(
        catalogue_names()
    )
    for name in catalogue_names():
        machine = catalogue_machine(name)
        sourced = " ".join(machine.sources)
        assert all(field in sourced for field in ("peaks", "levels", "launch_s")), name
        assert all(text.strip() for text in machine.sources.values())
        bandwidths = [level.bytes_per_s for level in machine.levels]
        assert bandwidths == sorted(bandwidths, reverse=True), name
        assert catalogue_device(name).machine is machine


def test_published_figures():
    a100, h200 = catalogue_machine("a100"), catalogue_machine("h200")
    assert (a100.peak("fp16"), a100.memory.bytes_per_s) == (312e12, 2039e9)
    assert (h200.peak("bf16"), h200.memory.bytes_per_s) == (691.9206e12, 4.2747e12)
    assert ridge(a100, "fp16") == pytest.approx(153.0, abs=0.1)


def test_an_unknown_machine_names_the_known_ones():
    with pytest.raises(DeviceError, match="did you mean 'h100'"):
        catalogue_machine("h10")
    with pytest.raises(DeviceError, match="neither a device file nor in the catalogue"):
        read_device("toaster")
    assert read_device("a100").kind == "cuda"


def test_the_roofs():
    assert attainable(MACHINE, 1.0) == 1e11
    assert attainable(MACHINE, 1e3) == 1e12
    assert attainable(MACHINE, ridge(MACHINE)) == pytest.approx(1e12)
    assert attainable(MACHINE, 1.0, level=MACHINE.levels[0]) == 1e12
    assert MACHINE.peak("fp16") == 1e12  # no figure of its own: as fp32
    assert level_of(MACHINE, 1 << 20).name == "cache"
    assert level_of(MACHINE, (1 << 20) + 1).name == "memory"
    assert bound_of(roofline_parts(MACHINE, 1e9, 1.0)) == "compute"
    assert bound_of(roofline_parts(MACHINE, 1.0, 1e9)) == "memory"
    assert bound_of(roofline_parts(MACHINE, 1.0, 1.0)) == "overhead"


def test_errors_on_the_unseen_are_those_of_the_definition():
    found = unseen_error([1.1, 1.8, 4.0], [1.0, 2.0, 4.0], [0.1, 0.01, 0.1])
    assert found.mape == pytest.approx((0.1 + 0.1 + 0) / 3)
    assert found.spearman == pytest.approx(1.0)
    assert found.coverage == pytest.approx(2 / 3)


def test_a_busy_machine_is_told():
    device = calibrated()
    assert device.calibration is not None
    assert "busy" not in device.calibration.summary
    busy = replace(device.calibration, noise=Noise(0.3))
    assert busy.noise.loaded
    assert "busy" in busy.summary
