"""The commands that calibrate and predict, as far as they go without timing anything."""

from __future__ import annotations

import json

import pytest

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
