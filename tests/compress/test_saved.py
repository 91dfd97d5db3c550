"""Saved networks: what is loaded equals what was saved."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from fake_techniques import Narrow, Round, Small, task
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from saved_networks import X, shrunk
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, apply_recipe, load, load_network, read_structure, save
from tenfold.errors import NetworkError, RecipeError
from tenfold.models import Card, create, zoo


def test_what_is_loaded_equals_what_was_saved(tmp_path: Path) -> None:
    model = shrunk(tmp_path / "a", extra={"score": 0.5})
    again = load(tmp_path / "a", base=lambda: Small(hidden=16))
    assert torch.equal(again(X), model(X))
    assert not again.training
    assert again.last.weight.dtype == torch.int8
    stored = read_structure(tmp_path / "a" / "structure.json")
    assert stored.recipe == Recipe((Narrow(0.5), Round()))
    assert stored.extra == {"score": 0.5}
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["a", "structure.json", "weights.safetensors"]


def test_non_persistent_buffers_are_kept(tmp_path: Path) -> None:
    work = task(Small(hidden=16, buffer=torch.arange(6.0)))
    model, steps = apply_recipe(Recipe((Narrow(0.5),)), work, Run())
    save(tmp_path / "a", model, steps, inputs=X[:1])
    again = load(tmp_path / "a", base=Small(hidden=16))
    assert torch.equal(again.offset, torch.arange(6.0))
    assert torch.equal(again(X), model(X))
    assert "offset" not in again.state_dict()


def test_a_base_that_is_a_network_is_left_alone(tmp_path: Path) -> None:
    base = Small(hidden=16)
    before = {name: value.clone() for name, value in base.state_dict().items()}
    save(tmp_path / "a", Small(hidden=16), [], inputs=X[:1])
    again = load(tmp_path / "a", base=base)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert not torch.equal(again.first.weight, base.first.weight)


def test_half_precision_is_kept(tmp_path: Path) -> None:
    model = Small().half()
    save(tmp_path / "a", model, [], inputs=X[:1].half())
    again = load(tmp_path / "a", base=Small)
    assert again.first.weight.dtype == torch.float16
    assert torch.equal(again(X.half()), model(X.half()))


class Tied(nn.Module):
    """An embedding whose weight is the classifier's too, and a view of it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("part", self.embed.weight.detach()[2:4])
        self.register_buffer("flipped", torch.arange(6.0).view(2, 3).t())
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("count", torch.tensor(3))

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embed(ids))


def test_tied_weights_are_stored_once_and_tied_again(tmp_path: Path) -> None:
    model = Tied()
    save(tmp_path / "a", model, [], inputs=torch.zeros(1, 3, dtype=torch.long))
    assert set(safetensors.torch.load_file(tmp_path / "a" / "weights.safetensors")) == {
        "embed.weight",
        "part",
        "flipped",
        "empty",
        "count",
    }
    again = load(tmp_path / "a", base=Tied)
    assert again.head.weight is again.embed.weight
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert again.embed.weight.requires_grad


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.int8, torch.uint8, torch.int64, torch.bool]),
)
def test_any_tensors_come_back(tmp_path: Path, shapes: list[list[int]], dtype: torch.dtype) -> None:
    def build() -> nn.Module:
        model = nn.Module()
        for index, shape in enumerate(shapes):
            model.register_buffer(f"b{index}", torch.zeros(shape, dtype=dtype))
        return model

    model = build()
    for buffer in model.buffers():
        buffer.copy_(torch.randint(0, 2, buffer.shape))
    save(tmp_path / "a", model, [], inputs=X, overwrite=True)
    again = load(tmp_path / "a", base=build)
    assert all(
        torch.equal(a, b) and a.dtype == b.dtype
        for a, b in zip(again.buffers(), model.buffers(), strict=True)
    )


@pytest.mark.parametrize(
    "inputs",
    [
        torch.zeros(2, 3),
        (torch.zeros(1, 2), torch.ones(1, 5, dtype=torch.int64)),
        {"ids": torch.zeros(1, 4, dtype=torch.int32), "mask": torch.zeros(1, 4, dtype=torch.bool)},
    ],
)
def test_inputs_of_any_kind(tmp_path: Path, inputs: Any) -> None:
    save(tmp_path / "a", Small(), [], inputs=inputs)
    zeros = read_structure(tmp_path / "a" / "structure.json").inputs.zeros()
    assert type(zeros) is type(inputs)

    def flat(v):
        return (
            list(v.items()) if isinstance(v, dict) else list(enumerate([v] if isinstance(v, Tensor) else v))
        )

    for (name, made), (wanted_name, wanted) in zip(flat(zeros), flat(inputs), strict=True):
        assert (name, made.shape, made.dtype) == (wanted_name, wanted.shape, wanted.dtype)
        assert not made.any()


@pytest.fixture
def zoo_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    card = Card("resnet20", {"in_channels": 1}, (1, 28, 28), "", {}, "Apache-2.0", "")
    zoo.store("tiny", create("resnet20", in_channels=1), card, folder=tmp_path / "zoo")
    monkeypatch.setattr(zoo, "WEIGHTS", tmp_path / "zoo")
    return "zoo:tiny"


def test_a_base_by_name(tmp_path: Path, zoo_entry: str) -> None:
    model, base = load_network(zoo_entry)
    assert base == zoo_entry
    save(tmp_path / "a", model, [], inputs=torch.zeros(1, 1, 28, 28), base=base)
    x = torch.randn(2, 1, 28, 28)
    assert torch.equal(load(tmp_path / "a")(x), model(x))
    again, none = load_network(str(tmp_path / "a"))
    assert none is None
    assert torch.equal(again(x), model(x))


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.filterwarnings("error::tenfold.models.RandomWeights")
def test_a_base_of_timm(tmp_path: Path) -> None:
    spec = "timm:resnet10t?num_classes=3&in_chans=1"
    model, base = load_network(spec, weights=False)
    assert base == spec
    nn.init.normal_(model.fc.weight)
    save(tmp_path / "a", model, [], inputs=torch.zeros(1, 1, 32, 32), base=base)
    x = torch.randn(2, 1, 32, 32)
    assert torch.equal(load(tmp_path / "a")(x), model(x))


def test_every_form_of_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_nets.py").write_text(
        "from torch import nn\ndef build(): return nn.Linear(2, 3)\ndef text(): return 'x'\n"
        "def broken(): raise ValueError('no')\n"
    )
    monkeypatch.chdir(tmp_path)
    model, base = load_network("my_nets:build")
    assert (type(model), base, model.training) == (nn.Linear, None, False)
    save("kept", model, [], inputs=X)
    assert torch.equal(load_network("kept", nn.Linear(2, 3))[0].weight, model.weight)
    assert torch.equal(load("kept", base="my_nets:build").weight, model.weight)
    for spec, message in (
        ("my_nets:text", "factory my_nets:text returned str, not a torch.nn.Module"),
        ("my_nets:broken", "factory my_nets:broken raised ValueError: no"),
        ("my_nets:biuld", "did you mean 'build'"),
        ("kep", r"no network 'kep'; did you mean 'kept'"),
        ("zoo:none", "no network zoo:none"),
    ):
        with pytest.raises(NetworkError, match=message):
            load_network(spec)
    with pytest.raises(RecipeError, match=r"holds no saved network"):
        load_network(str(tmp_path))


def test_in_a_fresh_process(tmp_path: Path) -> None:
    model = shrunk(tmp_path / "a")
    torch.save(model(X), tmp_path / "wanted.pt")
    torch.save(X, tmp_path / "x.pt")
    code = (
        "import sys, torch; sys.path.insert(0, sys.argv[1]); import fake_techniques as fakes; from tenfold.compress import load\n"
        "model = load(sys.argv[2] + '/a', base=lambda: fakes.Small(hidden=16))\n"
        "x, wanted = (torch.load(f'{sys.argv[2]}/{name}.pt') for name in ('x', 'wanted'))\n"
        "assert torch.equal(model(x), wanted)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path)], check=True)


def test_saving_the_same_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        torch.manual_seed(1)
        model, steps = apply_recipe(Recipe((Narrow(0.5),)), task(Small(hidden=16)), Run())
        save(tmp_path / name, model, steps, inputs=X)
    for name in ("structure.json", "weights.safetensors"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
