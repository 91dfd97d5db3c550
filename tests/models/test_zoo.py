"""Networks that ship: what is stored is what is loaded."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tenfold.cli import main
from tenfold.errors import NetworkError
from tenfold.models import Card, create, named_network, zoo, zoo_names
from tenfold.models.zoo import store, zoo_card, zoo_network

ON_CIFAR = [name for name in zoo_names() if name.endswith("_cifar10")]

CARD = Card(
    architecture="resnet20",
    options={"num_classes": 4, "in_channels": 1},
    input_shape=(1, 28, 28),
    data="a test's",
    accuracy={"test": 0.25},
    licence="Apache-2.0",
    script="tests/models/test_zoo.py",
)


@pytest.fixture
def model() -> torch.nn.Module:
    torch.manual_seed(3)
    model = create("resnet20", num_classes=4, in_channels=1)
    model(torch.randn(8, 1, 28, 28))  # moves the running statistics off their start
    return model.eval()


def test_fp32_is_exact(model: torch.nn.Module, tmp_path: Path) -> None:
    store("small", model, CARD, half=False, folder=tmp_path)
    again = zoo_network("small", folder=tmp_path)
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(again(x), model(x))
    assert not again.training
    assert zoo_names(tmp_path) == ["small"]
    assert zoo_card("small", tmp_path) == CARD


def test_fp16_is_loaded_as_fp32(model: torch.nn.Module, tmp_path: Path) -> None:
    store("small", model, CARD, folder=tmp_path)
    again = zoo_network("small", folder=tmp_path).state_dict()
    for name, value in model.state_dict().items():
        assert again[name].dtype == value.dtype
        wanted = value.half().float() if value.is_floating_point() else value
        assert torch.equal(again[name], wanted), name


def test_fp16_overflow_is_refused(model: torch.nn.Module, tmp_path: Path) -> None:
    with torch.no_grad():
        model.fc.bias[0] = 1e6
    with pytest.raises(NetworkError, match=r"fc\.bias does not fit fp16"):
        store("small", model, CARD, folder=tmp_path)


def test_without_weights_the_structure_alone(model: torch.nn.Module, tmp_path: Path) -> None:
    store("small", model, CARD, folder=tmp_path)
    bare = zoo_network("small", weights=False, folder=tmp_path)
    assert {n: v.shape for n, v in bare.state_dict().items()} == {
        n: v.shape for n, v in model.state_dict().items()
    }


def test_unknown_name(model: torch.nn.Module, tmp_path: Path) -> None:
    store("small", model, CARD, folder=tmp_path)
    with pytest.raises(NetworkError, match=r"no network zoo:smal; did you mean 'zoo:small'"):
        zoo_network("smal", folder=tmp_path)


def test_weights_of_another_network(model: torch.nn.Module, tmp_path: Path) -> None:
    store("small", model, replace(CARD, options={"num_classes": 5, "in_channels": 1}), folder=tmp_path)
    with pytest.raises(NetworkError, match=r"weights of zoo:small do not fit resnet20"):
        zoo_network("small", folder=tmp_path)


def test_broken_weights(model: torch.nn.Module, tmp_path: Path) -> None:
    store("small", model, CARD, folder=tmp_path)
    (tmp_path / "small.safetensors").write_bytes(b"nothing")
    with pytest.raises(NetworkError, match="weights of zoo:small cannot be read"):
        zoo_network("small", folder=tmp_path)


def test_everything_that_ships_loads() -> None:
    for name in zoo_names():
        card = zoo_card(name)
        output = named_network(f"zoo:{name}")(torch.zeros(1, *card.input_shape))
        assert output.isfinite().all()
        assert json.loads((zoo.WEIGHTS / f"{name}.json").read_text())["licence"]


def test_a_name_leaves_the_callers_generator_alone() -> None:
    for name in zoo_names():
        torch.manual_seed(5)
        wanted = torch.rand(1)
        torch.manual_seed(5)
        named_network(f"zoo:{name}", weights=False)
        assert torch.equal(torch.rand(1), wanted)


@pytest.mark.parametrize("name", ON_CIFAR)
def test_what_was_trained_on_cifar10_ships_with_its_result_and_answers(name: str) -> None:
    card = zoo_card(name)
    assert card.input_shape == (3, 32, 32)
    assert 0.85 < card.accuracy["test"] < 1
    assert (Path(__file__).parents[2] / card.script).is_file()
    network = named_network(f"zoo:{name}")
    assert not network.training
    assert network(torch.zeros(2, *card.input_shape)).shape == (2, 10)


@pytest.mark.skipif(not os.environ.get("TENFOLD_DATA"), reason="TENFOLD_DATA does not name the data")
@pytest.mark.parametrize("name", ON_CIFAR)
def test_what_was_trained_on_cifar10_scores_what_its_card_says(name: str) -> None:
    from tenfold.data.cifar10 import cifar10

    test = cifar10(whole="all 50,000" in zoo_card(name).data).test
    assert test is not None
    network, right, count = zoo_network(name), 0, 1000
    with torch.inference_mode():
        for _, inputs, labels in test.take(count).batches(100):
            right += int((network(inputs).argmax(1) == labels).sum())
    # Three standard deviations of a share of 1,000 are 3 points at 90%.
    assert right / count == pytest.approx(zoo_card(name).accuracy["test"], abs=0.03)


def test_the_command_tells_what_a_trained_network_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["models", "zoo:resnet20_cifar10"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert "zoo:resnet20_cifar10" in said
    assert f"{zoo_card('resnet20_cifar10').accuracy['test']:.2%} of test" in said
    assert "272,474" in said
