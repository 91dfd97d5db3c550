"""Saved networks: what is loaded equals what was saved, and files can do no harm."""

from __future__ import annotations

import contextlib
import importlib.util
import json
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
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, Step, apply_recipe, load, load_network, read_structure, save
from tenfold.compress.weights import packed
from tenfold.errors import NetworkError, OutputError, RecipeError
from tenfold.models import Card, create, zoo

X = torch.linspace(-2, 2, 30).view(5, 6)


def shrunk(folder: Path, **options: Any) -> nn.Module:
    model, steps = apply_recipe(Recipe((Narrow(0.5), Round())), task(Small(hidden=16)), Run())
    save(folder, model, steps, inputs=X[:1], **options)
    return model


def edited(folder: Path, **changes: Any) -> None:
    path = folder / "structure.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


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


class TestWriting:
    def test_another_network_is_not_overwritten(self, tmp_path: Path) -> None:
        shrunk(tmp_path / "a")
        before = (tmp_path / "a" / "weights.safetensors").read_bytes()
        with pytest.raises(OutputError, match="holds a saved network already"):
            save(tmp_path / "a", Small(), [], inputs=X)
        assert (tmp_path / "a" / "weights.safetensors").read_bytes() == before
        save(tmp_path / "a", Small(hidden=3), [], inputs=X, overwrite=True)
        assert load(tmp_path / "a", base=lambda: Small(hidden=3)).first.out_features == 3

    def test_other_files_in_the_folder_stay(self, tmp_path: Path) -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "model.onnx").write_text("kept")
        shrunk(tmp_path / "a")
        assert sorted(p.name for p in (tmp_path / "a").iterdir()) == [
            "model.onnx",
            "structure.json",
            "weights.safetensors",
        ]

    @pytest.mark.parametrize("failing", ["weights", "structure", "move"])
    def test_a_full_disk_leaves_nothing_behind(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
    ) -> None:
        from tenfold.compress import saved

        def full(*args: Any, **kwargs: Any) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(
            saved, {"weights": "save_file", "structure": "write_json", "move": "_move"}[failing], full
        )
        with pytest.raises(OutputError, match=r"cannot write .*No space left on device"):
            shrunk(tmp_path / "a")
        assert list(tmp_path.iterdir()) == []

    def test_a_write_that_really_fails(self, tmp_path: Path) -> None:
        """In a process that may write no file above 100 kB, which is how a disk fills, seen from inside."""
        code = (
            "import resource, signal, sys, torch; from tenfold.compress import save\n"
            "from tenfold.errors import OutputError\n"
            "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
            "try: save(sys.argv[1] + '/a', torch.nn.Linear(500, 500), [], inputs=torch.zeros(1, 500))\n"
            "except OutputError as error: print(error)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, text=True
        )
        assert "cannot write" in done.stdout
        assert list(tmp_path.iterdir()) == []

    def test_a_file_in_the_way(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        for folder in (tmp_path / "file" / "a", tmp_path / "file"):
            with pytest.raises(OutputError, match="cannot write"):
                shrunk(folder)
        assert [p.name for p in tmp_path.iterdir()] == ["file"]

    @pytest.mark.parametrize(
        ("resolved", "message"),
        [
            ({1: 2}, r"step 1 \(narrow\): the key 1 is not text"),
            ({"a": float("nan")}, "holds nan"),
            ({"a": [torch.zeros(1)]}, "holds a Tensor, which is not plain JSON"),
        ],
    )
    def test_what_was_decided_must_be_plain(self, tmp_path: Path, resolved: Any, message: str) -> None:
        with pytest.raises(RecipeError, match=message):
            save(tmp_path / "a", Small(), [Step(Narrow(), resolved)], inputs=X)
        assert list(tmp_path.iterdir()) == []

    def test_an_import_path_is_no_base(self, tmp_path: Path) -> None:
        with pytest.raises(RecipeError, match="not one that a file may name"):
            save(tmp_path / "a", Small(), [], inputs=X, base="my.module:factory")

    def test_networks_that_cannot_be_stored(self) -> None:
        with pytest.raises(NetworkError, match=r"first\.weight is on the meta device"):
            packed(Small().to("meta"))
        model = nn.Module()
        model.register_buffer("holes", torch.eye(3).to_sparse())
        with pytest.raises(NetworkError, match=r"holes is torch\.sparse_coo"):
            packed(model)


class TestReading:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        shrunk(tmp_path / "a")
        return tmp_path / "a"

    def refused(self, folder: Path, message: str, base: Any = None) -> None:
        with pytest.raises(RecipeError, match=message):
            load(folder, base=base or (lambda: Small(hidden=16)))

    def test_missing_files(self, folder: Path) -> None:
        (folder / "weights.safetensors").rename(folder / "elsewhere")
        self.refused(folder, r"weights\.safetensors does not exist")
        (folder / "structure.json").unlink()
        self.refused(folder, r"structure\.json does not exist: .* holds no saved network")

    def test_no_base(self, folder: Path) -> None:
        with pytest.raises(RecipeError, match="does not name its base: pass base="):
            load(folder)

    @pytest.mark.parametrize("base", ["os:getcwd", "my.module:factory", "/etc/passwd", "zoo", 3, ["zoo:x"]])
    def test_bases_that_no_file_may_name(self, folder: Path, base: Any) -> None:
        edited(folder, base=base)
        self.refused(folder, "not one that a file may name .*base=factory")

    def test_a_base_that_does_not_exist(self, folder: Path) -> None:
        edited(folder, base="zoo:../../secret")
        with pytest.raises(RecipeError, match="cannot be built: no network zoo"):
            load(folder)

    def test_bases_that_fail(self, folder: Path) -> None:
        self.refused(folder, "the base factory raised ZeroDivisionError", lambda: 1 / 0)
        self.refused(folder, "the base factory returned int", lambda: 1)

    def test_another_base(self, folder: Path) -> None:
        self.refused(
            folder, r"step 1 \(narrow\) does not go with the base: \w+Error", lambda: nn.Linear(6, 3)
        )
        self.refused(folder, r"step 1 \(narrow\) does not go with the base", lambda: Small(hidden=4))

    def test_a_version_to_come(self, folder: Path) -> None:
        edited(folder, version=2)
        self.refused(folder, "it has version 2; this Tenfold reads version 1")

    def test_weights_of_another_network(self, folder: Path) -> None:
        edited(folder, steps=[])
        self.refused(
            folder, r"do not match the network: 1 unexpected \(last\.step\); 3 differing \(first\.bias is float32 \(8,\), wanted float32 \(16,\)"
        )  # fmt: skip

    def test_damaged_weights(self, folder: Path) -> None:
        path = folder / "weights.safetensors"
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
        self.refused(folder, "is not the file that was saved with its structure")
        import hashlib

        for cut in (0, 4, 9, 60, len(content) - 3):
            path.write_bytes(content[:cut])
            edited(folder, weights_sha256=hashlib.sha256(content[:cut]).hexdigest())
            self.refused(folder, "cannot be read")

    def test_a_technique_that_is_not_registered_is_not_imported(self, folder: Path) -> None:
        for name in ("os:system", "tenfold.compress.distill:Distill", "nonsense"):
            edited(folder, steps=[{"technique": {"technique": name}, "resolved": {}}])
            self.refused(folder, "step 1: no technique")

    @pytest.mark.parametrize(
        ("tensors", "message"),
        [
            ([{"name": "0", "shape": [10**9, 10**9], "dtype": "float32"}], "is too large"),
            ([{"name": "0", "shape": [-1], "dtype": "float32"}], "a shape is a list of whole numbers"),
            ([{"name": "0", "shape": [True], "dtype": "float32"}], "a shape is a list of whole numbers"),
            ([{"name": "0", "shape": [1], "dtype": "nn"}], "unknown type 'nn'"),
            ([], "0 tensors do not go with the kind tensor"),
        ],
    )
    def test_hostile_inputs(self, folder: Path, tensors: Any, message: str) -> None:
        edited(folder, inputs={"kind": "tensor", "tensors": tensors})
        self.refused(folder, message)

    @pytest.mark.parametrize("text", ["", "{", "[]", "NaN", "1" * 5000, "[" * 100_000, '"\\ud800"', "\x00"])
    def test_malformed_json(self, folder: Path, text: str) -> None:
        (folder / "structure.json").write_text(text)
        self.refused(folder, r"structure\.json")
        (folder / "structure.json").write_bytes(b"\xff\xfe")
        self.refused(folder, "is not valid JSON")


KEYS = ("format", "version", "base", "steps", "inputs", "shared", "weights_sha256", "technique", "resolved",
        "kept", "kind", "tensors", "name", "shape", "dtype", "share", "extra")  # fmt: skip
ANY = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=5)
    | st.sampled_from(["tenfold", "narrow", "round", "tensor", "float32", "zoo:x", "first.weight"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=8,
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_structure_loads_or_is_a_recipe_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Values put at any place of a good file, keys removed and added: a RecipeError, or the network."""
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    if not folder.exists():
        shrunk(folder)
        (folder / "good.json").write_text((folder / "structure.json").read_text())
    value: Any = json.loads((folder / "good.json").read_text())
    for _ in range(data.draw(st.integers(1, 3))):
        _change(value, data)
    (folder / "structure.json").write_text(json.dumps(value))
    with contextlib.suppress(RecipeError):
        load(folder, base=lambda: Small(hidden=16))


def _change(value: Any, data: st.DataObject) -> None:
    """Replace, remove or add something at a random depth."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    if keys and data.draw(st.integers(0, 3)):
        key = data.draw(st.sampled_from(keys))
        if isinstance(value[key], (dict, list)) and data.draw(st.booleans()):
            _change(value[key], data)
        elif data.draw(st.integers(0, 3)):
            value[key] = data.draw(ANY)
        else:
            del value[key]
    elif isinstance(value, dict):
        value[data.draw(st.sampled_from(KEYS))] = data.draw(ANY)
    else:
        value.append(data.draw(ANY))
