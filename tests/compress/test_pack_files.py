"""Packed files: the same weights back, honest figures, and nothing that a damaged or hostile file could do."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from pack_networks import saved, wide
from quantize_networks import images
from safetensors.torch import load_file
from torch import nn

from tenfold.cli import main
from tenfold.compress import load, pack, save, unpack
from tenfold.compress.packing.blocks import LEAST
from tenfold.compress.quantize import Nearest, PerChannel, PerGroup, Quantize, QuantizeWeights
from tenfold.compress.registry import technique_class
from tenfold.compress.saved import save_tensors
from tenfold.compress.structure import read_structure
from tenfold.compress.technique import Technique
from tenfold.errors import OutputError, PackError, RecipeError

pytest.importorskip("constriction")


@pytest.mark.parametrize(
    "steps",
    [
        (),
        (QuantizeWeights(6, PerChannel()),),
        (QuantizeWeights(3, PerGroup(7)),),
        (Quantize(),),
        (Quantize(stored_bits=5),),
    ],
    ids=["fp32", "6 bits", "3 bits", "int8", "int8 of 5 bits"],
)
def test_unpacks_to_the_same_file_and_the_same_answers(steps: tuple[Technique, ...], tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", *steps)
    report = pack(folder, tmp_path / "a.pack")
    unpack(tmp_path / "a.pack", tmp_path / "b")
    for name in ("weights.safetensors", "structure.json"):
        assert (folder / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    size = (tmp_path / "a.pack").stat().st_size
    assert report.file_bytes == size < report.saved_bytes
    charged = report.header_bytes + report.rest_bytes + round(report.achieved * report.weights / 8)
    assert abs(charged - size) <= 1
    number = sum(value.numel() for value in wide().parameters() if value.dim() > 1)
    assert number <= report.weights < 1.13 * number  # the last group of a row is filled up
    with torch.no_grad():
        answers = [load(where, base=wide)(images()) for where in (folder, tmp_path / "b")]
    assert torch.equal(*answers)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_floats_of_every_width_come_back_to_the_last_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            values = torch.randn(64, 500, generator=torch.Generator().manual_seed(0)) * 0.02
            special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan])
            self.weight = nn.Parameter(values.to(dtype))
            self.odd = nn.Parameter(torch.cat([special, torch.tensor([1e-41, 3e38])]).to(dtype))
            self.register_buffer("empty", torch.empty(0, 3, dtype=dtype))
            self.register_buffer("steps", torch.tensor(7))
            self.register_buffer("mask", torch.tensor([True, False]))

    folder = save(tmp_path / "a", Plain(), [], inputs=torch.zeros(1))
    pack(folder, tmp_path / "a.pack")
    unpack(tmp_path / "a.pack", tmp_path / "b")
    assert (folder / "weights.safetensors").read_bytes() == (tmp_path / "b/weights.safetensors").read_bytes()
    assert (tmp_path / "a.pack").stat().st_size < 0.96 * (folder / "weights.safetensors").stat().st_size


@pytest.mark.parametrize("step", [None, 0.5])
def test_empty_tensors_come_back(step: float | None, tmp_path: Path) -> None:
    class Hollow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(40, 50))
            for number, shape in enumerate([(0,), (0, 5), (5, 0), (3, 0, 2)]):
                self.register_buffer(f"float{number}", torch.empty(shape))
                self.register_buffer(f"int{number}", torch.empty(shape, dtype=torch.int8))

    folder = save(tmp_path / "a", Hollow(), [], inputs=torch.zeros(1))
    pack(folder, tmp_path / "a.pack", step=step)
    made = load(unpack(tmp_path / "a.pack", tmp_path / "b"), base=Hollow)
    before = load(folder, base=Hollow).state_dict()
    for name, value in made.state_dict().items():
        assert (value.shape, value.dtype) == (before[name].shape, before[name].dtype)


def test_what_unpacking_would_refuse_is_not_packed(tmp_path: Path) -> None:
    layer = nn.Linear(700, 700, bias=False)
    layer.weight.data = torch.zeros(700, 700)
    layer.weight.data[0, 0] = 1.0  # far from all others, which a coarse grid takes for zero
    folder = save(tmp_path / "a", layer, [], inputs=torch.zeros(1, 700))
    tensors = {"weight": layer.weight.data.clone()}
    folder = save_tensors(
        tmp_path / "b", tensors, replace(read_structure(folder / "structure.json"), coded={})
    )
    with pytest.raises(PackError, match="no network packs so well"):
        pack(folder, tmp_path / "a.pack", step=10.0)
    assert not (tmp_path / "a.pack").exists()


def test_floats_that_were_narrower_once_pay_for_no_more(tmp_path: Path) -> None:
    sizes = []
    for dtype in (torch.bfloat16, torch.float32):
        layer = nn.Linear(200, 300, bias=False)
        layer.weight.data = (
            torch.randn(300, 200, generator=torch.Generator().manual_seed(0)).bfloat16().to(dtype)
        )
        folder = save(tmp_path / str(dtype), layer, [], inputs=torch.zeros(1, 200))
        sizes.append(pack(folder, tmp_path / "x.pack").file_bytes)
    assert sizes[1] < 1.01 * sizes[0]


@pytest.mark.parametrize(
    "names", [("sparsify",), ("share",), ("sparsify", "share"), ("sparsify", "quantize")], ids="-".join
)
def test_a_network_stored_in_coded_form_unpacks_to_the_same_file(
    names: tuple[str, ...], tmp_path: Path
) -> None:
    folder = saved(tmp_path / "a", *(technique_class(name)() for name in names))
    assert read_structure(folder / "structure.json").coded
    report = pack(folder, tmp_path / "a.pack")
    unpack(tmp_path / "a.pack", tmp_path / "b")
    for name in ("weights.safetensors", "structure.json"):
        assert (folder / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    made, again = (load(where, base=wide) for where in (folder, tmp_path / "b"))
    with torch.no_grad():
        assert torch.equal(made(images()), again(images()))
    assert report.file_bytes < 0.95 * report.saved_bytes
    numbers = sum(tensor.numel() for tensor in made.state_dict().values())
    coded = len(read_structure(folder / "structure.json").coded)
    assert 4 * numbers <= report.float_bytes <= 4 * (numbers + 7 * coded)


def test_shared_weights_of_unequal_number_take_their_entropy(tmp_path: Path) -> None:
    layer = nn.Linear(300, 400, bias=False)
    places = torch.randn(400, 300, generator=torch.Generator().manual_seed(0)).mul(3).round().clamp(-15, 16)
    layer.weight.data = torch.randn(32, generator=torch.Generator().manual_seed(1))[places.long() + 15]
    folder = save(tmp_path / "a", layer, [], inputs=torch.zeros(1, 300))
    report = pack(folder, tmp_path / "a.pack")
    counts = torch.unique(places, return_counts=True)[1].double()
    assert report.weights == layer.weight.numel()
    entropy = float(counts @ (counts.sum() / counts).log2() / counts.sum())
    table = load_file(folder / "weights.safetensors")["weight::table"]
    learning = len(table) / 2 * math.log2(120_000)  # a code that learns K shares pays ½ log2 n bits for each
    assert entropy < report.achieved < entropy + (8 * table.nbytes + learning) / 120_000


def test_int8_weights_of_few_values_are_kept_and_counted_as_the_matrices_that_they_are(
    tmp_path: Path,
) -> None:
    """Weights of a narrow range (7 bits) are int8 as they stand: in a table, their places would hide the matrix."""
    weights = torch.randn(64, 300, generator=torch.Generator().manual_seed(0)).mul(16).round().clamp(-63, 63)
    folder = save(tmp_path / "a", Integers(weights), [], inputs=torch.zeros(1))
    assert not read_structure(folder / "structure.json").coded
    report = pack(folder, tmp_path / "a.pack")
    assert report.weights == weights.numel()
    assert report.charged < 6.4
    few = save(tmp_path / "b", Integers(weights.clamp(-8, 7)), [], inputs=torch.zeros(1))
    assert read_structure(few / "structure.json").coded["weight"] == {"form": "table", "bits": 4}


def test_weights_in_tables_are_counted_beside_those_in_matrices(tmp_path: Path) -> None:
    weights = torch.randn(64, 300, generator=torch.Generator().manual_seed(0)).mul(16).round()
    model = Integers(weights)
    model.shared = nn.Parameter(weights.clamp(-8, 7) / 8)
    model.plain = nn.Parameter(torch.randn(40, 30))
    model.bias = nn.Parameter(torch.randn(300))
    folder = save(tmp_path / "a", model, [], inputs=torch.zeros(1))
    assert read_structure(folder / "structure.json").coded.keys() == {"shared"}
    report = pack(folder, tmp_path / "a.pack")
    assert report.weights == 2 * weights.numel() + 40 * 30
    assert 1024 < report.rest_bytes < 4 * 300 + 4 * 16 + 64  # the bias and the table
    assert report.order0 < report.achieved < report.charged < 8


class Integers(nn.Module):
    """A weight of int8, as quantised layers hold it."""

    def __init__(self, weights: torch.Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weights.to(torch.int8))


def many() -> nn.Module:
    """A network of 400 small tensors."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(*(nn.Linear(40, 24) for _ in range(200)))
    for value in model.parameters():
        value.data = torch.randn(value.shape, generator=generator)
    return model


def test_a_whole_file_of_small_tensors_is_their_models_cross_entropy_and_the_header(tmp_path: Path) -> None:
    folder = save(tmp_path / "a", many(), [], inputs=torch.zeros(1, 40))
    report = pack(folder, tmp_path / "a.pack", step=0.2)
    codes = report.file_bytes - report.header_bytes
    assert codes > 1.5 * LEAST  # so many bytes make two blocks
    assert 0 < report.coder_bytes < 0.001 * codes
    made = load(unpack(tmp_path / "a.pack", tmp_path / "b"), base=many)
    for name, value in load(folder, base=many).state_dict().items():
        assert torch.allclose(made.state_dict()[name], value, atol=0.35)
        assert torch.equal(made.state_dict()[name], value) == (value.dim() == 1)


def test_where_zeros_lie_takes_its_entropy(tmp_path: Path) -> None:
    """A learnt share of zeros costs a few bits a layer; learning the bytes of its bitmap would cost hundreds."""
    generator = torch.Generator().manual_seed(0)
    kept = torch.rand(400, 300, generator=generator) < 0.1
    layer = nn.Linear(300, 400, bias=False)
    shared = torch.randn(16, generator=generator)[torch.randint(16, (400, 300), generator=generator)]
    layer.weight.data = torch.where(kept, shared, 0.0)
    folder = save(tmp_path / "a", layer, [], inputs=torch.zeros(1, 300))
    assert read_structure(folder / "structure.json").coded["weight"]["form"] == "sparse-table"
    share = float(kept.float().mean())
    least = -share * math.log2(share) - (1 - share) * math.log2(1 - share) + 4 * share
    assert 0.998 * least < pack(folder, tmp_path / "a.pack").achieved < 1.005 * least


def test_bits_that_no_place_needs_come_back_too(tmp_path: Path) -> None:
    layer = nn.Linear(43, 101, bias=False)
    layer.weight.data = torch.arange(101 * 43).reshape(101, 43) % 8 * 1.0
    folder = save(tmp_path / "a", layer, [], inputs=torch.zeros(1, 43))
    structure = read_structure(folder / "structure.json")
    tensors = load_file(folder / "weights.safetensors")
    assert structure.coded["weight"] == {"form": "table", "bits": 3}
    tensors["weight::codes"][-1] |= 0b1000_0000  # 4343 codes of 3 bits leave 3 bits of the last byte
    folder = save_tensors(tmp_path / "odd", tensors, structure)
    pack(folder, tmp_path / "a.pack")
    unpack(tmp_path / "a.pack", tmp_path / "b")
    assert (folder / "weights.safetensors").read_bytes() == (tmp_path / "b/weights.safetensors").read_bytes()


def test_a_grid_step_rounds_weights_and_keeps_the_rest(tmp_path: Path) -> None:
    folder = saved(tmp_path / "a")
    exact, rough = pack(folder, tmp_path / "exact.pack"), pack(folder, tmp_path / "rough.pack", step=0.25)
    assert rough.file_bytes < 0.3 * exact.file_bytes
    unpack(tmp_path / "rough.pack", tmp_path / "b")
    before, after = load(folder, base=wide).state_dict(), load(tmp_path / "b", base=wide).state_dict()
    for name, value in before.items():
        if value.dim() > 1 and value.numel() >= 256:
            error = (after[name] - value).square().mean().sqrt() / value.square().mean().sqrt()
            assert 0.04 < float(error) < 0.11  # 0.25 / √12 = 0.072, and a little more for fewer bits
        else:
            assert torch.equal(after[name], value)
    again = pack(tmp_path / "b", tmp_path / "again.pack")
    assert again.file_bytes > rough.file_bytes  # as floats, it is no grid any more


@pytest.mark.parametrize(
    "steps",
    [(Quantize(),), (QuantizeWeights(3, PerGroup(7)),), (technique_class("share")(),)],
    ids=["int8", "scales in a matrix", "shared"],
)
def test_a_step_that_would_round_nothing_is_refused(steps: tuple[Technique, ...], tmp_path: Path) -> None:
    folder = saved(tmp_path / "a", *steps)
    structure = read_structure(folder / "structure.json")
    held = {
        name: value
        for name, value in load_file(folder / "weights.safetensors").items()
        if name.startswith("int8.") or "::" in name or value.dim() == 1
    }
    only = save_tensors(tmp_path / "b", held, structure)
    assert any(value.dim() == 2 for value in held.values())
    with pytest.raises(PackError, match="pack it without a step"):
        pack(only, tmp_path / "a.pack", step=0.5)
    assert not (tmp_path / "a.pack").exists()


def test_what_cannot_be_packed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="does not exist"):
        pack(tmp_path / "none", tmp_path / "a.pack")
    folder = saved(tmp_path / "a")
    for step in (0.0, -1.0, 11.0, float("nan")):
        with pytest.raises(PackError, match="standard deviations"):
            pack(folder, tmp_path / "a.pack", step=step)
    pack(folder, tmp_path / "a.pack")
    with pytest.raises(OutputError, match="holds a saved network already"):
        unpack(tmp_path / "a.pack", folder)
    with pytest.raises(PackError, match="cannot be read"):
        unpack(tmp_path / "none.pack", tmp_path / "b")
    (tmp_path / "text.pack").write_text("not one of ours, and longer than the head of a file is")
    with pytest.raises(PackError, match="is no packed network"):
        unpack(tmp_path / "text.pack", tmp_path / "b")
    assert not (tmp_path / "b").exists()
    with pytest.raises(OutputError, match="is a file that is no packed network: choose another name"):
        pack(folder, tmp_path / "text.pack")
    assert (tmp_path / "text.pack").read_text().startswith("not one of ours")
    pack(folder, tmp_path / "a.pack")  # one of ours is replaced


@pytest.mark.parametrize(
    ("network", "options", "reason"),
    [
        ("saved", "--data x", "--data has no use here: nothing is read of it without --bits"),
        ("saved", "--image-size 8", "--image-size has no use here: no image is read without --bits"),
        ("saved", "--input 1x64", "--input has no use here: saved holds what it takes"),
        ("saved", "--bits 4 --data x --input 1x64", "--input has no use here: with --bits the data say"),
        ("saved/structure.json", "--base a:b", "--base has no use here: without --bits a saved network is"),
        ("a:b", "--base a:b", "--base has no use here: a:b is no folder of a saved network"),
        (
            "a:b",
            "--bits 4 --data x --base a:b",
            "--base has no use here: a:b is no folder of a saved network",
        ),
    ],
)
def test_options_that_would_be_ignored_are_refused_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    network: str,
    options: str,
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("saved").mkdir()
    for name in ("structure.json", "weights.safetensors"):
        Path("saved", name).touch()
    with pytest.raises(SystemExit) as left:
        main(["pack", network, "file.pack", *options.split()])
    assert left.value.code == 1
    error = capsys.readouterr().err
    assert reason in error
    assert "; leave it out" in error


def test_the_commands_pack_and_unpack(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = saved(tmp_path / "a", QuantizeWeights(5, PerChannel(), rounding=Nearest()))

    def run(*arguments: str) -> int:
        with pytest.raises(SystemExit) as left:
            main([str(argument) for argument in arguments])
        return int(left.value.code or 0)

    figures = tmp_path / "figures.json"
    assert run("pack", str(folder), str(tmp_path / "a.pack"), "--json", str(figures)) == 0
    assert "everything charged" in capsys.readouterr().out
    written = json.loads(figures.read_text())
    assert written["file_bytes"] == (tmp_path / "a.pack").stat().st_size
    assert run("pack", str(folder / "structure.json"), str(tmp_path / "c.pack")) == 0
    assert (tmp_path / "c.pack").read_bytes() == (tmp_path / "a.pack").read_bytes()
    assert run("unpack", str(tmp_path / "a.pack"), str(tmp_path / "b")) == 0
    assert (folder / "weights.safetensors").read_bytes() == (tmp_path / "b/weights.safetensors").read_bytes()
    assert run("unpack", str(tmp_path / "a.pack"), str(tmp_path / "b")) == 1
    assert "--overwrite" not in capsys.readouterr().out
    assert run("unpack", str(tmp_path / "a.pack"), str(figures)) == 1
    assert "it is there already and no folder; name another" in capsys.readouterr().err
    (tmp_path / "b" / "model.onnx").touch()
    assert run("unpack", str(tmp_path / "a.pack"), str(tmp_path / "b"), "--overwrite") == 0
    assert "model.onnx stays as it was, which may be of another network" in capsys.readouterr().err
    monkeypatch.syspath_prepend(tmp_path)
    text = "from torch import nn\n\ndef make():\n    return nn.Linear(64, 10)\n"
    (tmp_path / "one_layer_to_pack.py").write_text(text)
    assert run("pack", "one_layer_to_pack:make", str(tmp_path / "d.pack")) == 1
    assert "does not take inputs of 1x3x224x224: give what it takes by --input" in capsys.readouterr().err
    assert not (tmp_path / "d.pack").exists()
    assert run("pack", "one_layer_to_pack:make", str(tmp_path / "d.pack"), "--input", "1x64") == 0
    unpack(tmp_path / "d.pack", tmp_path / "d")
    assert read_structure(tmp_path / "d/structure.json").inputs.zeros().shape == (1, 64)
    assert run("pack", str(folder), str(tmp_path / "c.pack"), "--bits", "4") == 1
    assert "--bits needs --data" in capsys.readouterr().err


def test_bits_that_a_network_cannot_have_are_told_by_the_option(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "bits_to_pack.py").write_text(
        "import torch\nfrom torch import nn\nfrom pack_networks import wide\n\n"
        "def data():\n    return {'train': (torch.zeros(30, 3, 12, 12), torch.arange(30) % 5)}\n\n"
        "def packed():\n    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(432, 5)))\n\n"
        "def bare():\n    return nn.Sequential(nn.AvgPool2d(12), nn.Flatten(), nn.PReLU(3))\n"
    )
    saved(tmp_path / "a", QuantizeWeights(5, PerChannel(), rounding=Nearest()))
    for arguments, told in (
        (
            "a --base bits_to_pack:wide",
            "a is quantised already; pack it as it is, without --bits and --data, or",
        ),
        (
            "bits_to_pack:bare",
            "bits_to_pack:bare cannot be quantised: it has no convolution and no linear layer",
        ),
        (
            "bits_to_pack:packed",
            "bits_to_pack:packed cannot be quantised: the network is already quantised by torch.ao",
        ),
    ):
        network, *rest = arguments.split()
        with pytest.raises(SystemExit) as left:
            main(["pack", network, "a.pack", "--bits", "4", "--data", "bits_to_pack:data", *rest])
        assert left.value.code == 1
        error = capsys.readouterr().err
        assert f"--bits 4: {told}" in error
        assert "recipe" not in error
