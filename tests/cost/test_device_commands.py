"""The commands that calibrate and predict, as far as they go without timing anything."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from test_device_file import calibrated

from tenfold.cli.app import main
from tenfold.compress import save
from tenfold.cost import Device
from tenfold.errors import NetworkError
from tenfold.models import create

NETWORK = "zoo:resnet56_fashion_mnist"


def status(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as error:
        main(arguments)
    return int(error.value.code or 0)


def test_profile_on_a_machine_of_the_catalogue(capsys, tmp_path):
    path = tmp_path / "profile.json"
    assert (
        status(
            ["profile", NETWORK, "--input", "1x1x28x28", "--device", "raspberry-pi-5", "--json", str(path)]
        )
        == 0
    )
    assert "(roofline)" in capsys.readouterr().out
    stored = json.loads(path.read_text())
    assert stored["prediction"]["ms"] > 0
    assert all(layer["predicted_ms"] is not None and layer["bound"] for layer in stored["layers"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["profile", NETWORK, "--device", "toaster"], "neither a device file nor in the catalogue"),
        (["profile", NETWORK, "--device", "gone.json"], "No such file"),
        (["calibrate", "--runtime", "tflite"], "--runtime must be one of"),
        (["calibrate", "--seconds", "1"], "10"),
        (["bench", NETWORK, "--device", "a100"], "measures on this machine's CPU"),
        (["bench", NETWORK, "--device", "cpu", "--predict"], "was never calibrated"),
        (["bench", NETWORK, "--predict"], "devices/cpu-onnxruntime-1.json: No such file"),
        (["bench", NETWORK, "--input", "1xy"], "--input '1xy' is no shape"),
    ],
)
def test_what_cannot_be_is_one_line_and_a_status(capsys, arguments, message):
    assert status(arguments) in (1, 2)
    written = capsys.readouterr().err
    assert message in written
    assert len(written.strip().splitlines()) == 1


def test_bench_without_prediction(capsys, tmp_path):
    Device("cpu", "torch").save(tmp_path / "device.json")
    file = tmp_path / "figures.json"
    command = [
        "bench",
        NETWORK,
        "--device",
        str(tmp_path / "device.json"),
        "--input",
        "1x1x28x28",
        "--seconds",
        "0.1",
    ]
    assert status([*command, "--json", str(file)]) == 0
    assert len(json.loads(file.read_text())["measured_ms"][NETWORK]) == 2


NETWORKS = """
import torch
from torch import nn

from tenfold.compress import Run
from tenfold.compress.quantize import Quantize
from tenfold.data import Task


def plain():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 2)).eval()


def again():
    return plain()


def int8():
    images = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    data = images, torch.zeros(8, dtype=torch.long)
    return Quantize(examples=8).apply(plain(), Task(plain(), data, data), Run()).model
"""


def test_quantised_networks_are_timed_and_not_predicted_and_what_is_undefined_is_no_figure(
    capsys, tmp_path, monkeypatch
):
    (tmp_path / "networks_to_bench.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    device, file = tmp_path / "device.json", tmp_path / "figures.json"
    replace(calibrated(), threads=1).save(device)
    plain, again, int8 = (f"networks_to_bench:{name}" for name in ("plain", "again", "int8"))
    shown = ["--device", str(device), "--input", "1x3x8x8", "--seconds", "0.1", "--predict"]
    assert status(["bench", int8, plain, again, *shown, "--json", str(file)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert rows[0].startswith(int8)
    assert rows[0].endswith("no prediction: calibration covers float networks")
    # Two networks of one structure are predicted alike, so that their ranks say nothing.
    assert [row for row in rows if "rank correlation –" in row] == rows[3:6]
    figures = json.loads(file.read_text())
    assert [row["network"] for row in figures["networks"]] == [plain, again]
    assert list(figures["unpredicted_ms"]) == [int8]
    assert figures["summary"]["networks"] == 2
    assert figures["summary"]["macs_only"]["spearman"] is None
    assert status(["bench", int8, *shown]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert status(["profile", int8, "--input", "1x3x8x8", "--device", str(device)]) == 1
    assert "is quantised, and predictions cover float networks" in capsys.readouterr().err


def test_timing_needs_no_device_file(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "network_to_time.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    network = "network_to_time:plain"
    assert status(["bench", network, "--input", "1x3x8x8", "--seconds", "0.1", "--json", "figures.json"]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["device"] == "cpu, onnxruntime, 1 thread"
    assert len(figures["measured_ms"][network]) == 2


def test_a_network_is_timed_and_a_saved_one_exported_with_the_input_it_was_made_for(
    capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    Device("cpu", "torch").save("device.json")
    name = "resnet20?in_channels=1&num_classes=3"
    model, x = create("resnet20", in_channels=1, num_classes=3), torch.zeros(2, 1, 8, 12)
    save(tmp_path / "saved", model, [], inputs=x, base=name)
    shown = ["--device", "device.json", "--seconds", "0.1", "--json", "figures.json"]
    assert status(["bench", "saved", name, *shown]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["inputs"] == {"saved": [[1, 1, 8, 12]], name: [[1, 1, 32, 32]]}

    def exported(model, inputs, file):
        raise NetworkError(f"exported for {tuple(inputs.shape)}")

    monkeypatch.setattr("tenfold.deploy.export_onnx", exported)
    for network, shape in (("saved", (1, 1, 8, 12)), (name, (1, 3, 224, 224))):
        assert status(["export", network, "a.onnx"]) == 1
        assert f"exported for {shape}" in capsys.readouterr().err
