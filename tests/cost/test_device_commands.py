"""The commands that calibrate and predict, as far as they go without timing anything."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from test_device_file import calibrated

from tenfold.cli.app import main
from tenfold.cost import Device

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
