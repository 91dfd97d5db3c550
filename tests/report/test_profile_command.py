"""`tenfold profile`: inputs of every kind, the files it writes, and one clear line where it cannot."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tenfold.cli import main
from tenfold.cli.inputs import expected, read_inputs, takes_tokens
from tenfold.compress import save
from tenfold.errors import BudgetError


class Tokens(nn.Module):
    """A small network with keyword inputs, which begins with an embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.cls = nn.Parameter(torch.zeros(1))
        self.embed = nn.Embedding(100, 16)
        self.out = nn.Linear(16, 100)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden = self.embed(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask.unsqueeze(-1)
        return self.out(hidden)


def image() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())


def sizes(inputs: Any) -> Any:
    if isinstance(inputs, dict):
        return {name: (tuple(t.shape), t.dtype) for name, t in inputs.items()}
    return [(tuple(t.shape), t.dtype) for t in inputs]


def test_inputs_as_texts() -> None:
    net = image()
    assert sizes(read_inputs(["1x3x8x8"], net, "x", None)) == [((1, 3, 8, 8), torch.float32)]
    assert sizes(read_inputs(["1x3x8x8", "1x4:int64"], net, "x", 5)) == [
        ((5, 3, 8, 8), torch.float32),
        ((5, 4), torch.int64),
    ]
    assert sizes(read_inputs(["image=1x3x8x8:float16", "mask_ids=1x4"], net, "x", None)) == {
        "image": ((1, 3, 8, 8), torch.float16),
        "mask_ids": ((1, 4), torch.int64),
    }
    assert sizes(read_inputs(["1x4:bool, 1x2"], net, "x", None)) == [
        ((1, 4), torch.bool),
        ((1, 2), torch.float32),
    ]
    assert read_inputs(["4x3"], net.half().to("meta"), "x", None)[0].is_meta
    assert sizes(read_inputs(["4x3"], net, "x", None)) == [((4, 3), torch.float16)]


def test_a_network_is_counted_on_what_it_was_made_for(tmp_path: Path) -> None:
    for spec, shape in (
        ("resnet20", (3, 32, 32)),
        ("efficientnet_b7", (3, 600, 600)),
        ("vit_s_16?resolution=32", (3, 32, 32)),
        ("efficientnet_b0?resolution=64&in_channels=1", (1, 64, 64)),
    ):
        assert expected(image(), spec) == (1, *shape)
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    save(tmp_path / "grey", grey, (), inputs=torch.zeros(2, 1, 9, 9))
    assert sizes(read_inputs([], grey, str(tmp_path / "grey"), None)) == [((1, 1, 9, 9), torch.float32)]
    words = {"input_ids": torch.zeros(2, 7, dtype=torch.long)}
    save(tmp_path / "words", Tokens(), (), inputs=words)
    found = read_inputs([], Tokens(), str(tmp_path / "words"), 4)
    assert sizes(found) == {"input_ids": ((4, 7), torch.int64)}


def test_tokens_follow_from_the_first_layer() -> None:
    assert takes_tokens(Tokens())
    assert not takes_tokens(image())
    assert sizes(read_inputs(["2x7"], Tokens(), "x", None)) == [((2, 7), torch.int64)]
    assert expected(Tokens(), "x") == (1, 128)
    assert expected(image(), "x") == (1, 3, 224, 224)
    assert expected(image(), "zoo:resnet56_fashion_mnist") == (1, 1, 28, 28)


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["3by4"], "'3by4' is no shape"),
        (["1x0"], "is no shape"),
        (["1x3:float33"], "no type 'float33'; did you mean 'float32'"),
        (["a=1x3", "1x4"], "give all inputs a name"),
        (["a=1x3", "a=1x4"], "a is given twice"),
        (["a=b=1x3"], "cannot be read"),
        ([""], "cannot be read"),
    ],
)
def test_inputs_that_cannot_be_read(texts: list[str], says: str) -> None:
    with pytest.raises(BudgetError, match=says):
        read_inputs(texts, image(), "x", None)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["profile", *arguments])
    captured = capsys.readouterr()
    code = ended.value.code
    return (code if isinstance(code, int) else 0), captured.out, captured.err


@pytest.fixture
def networks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current folder whose factories the command can be given."""
    (tmp_path / "profiled_networks.py").write_text(
        "from torch import nn\n"
        "def image(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())\n"
        "def small(): return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())\n",
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.modules.pop("profiled_networks", None)
    return "profiled_networks:image"


def test_every_output_at_once(networks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    files = {"--html": "a/p.html", "--json": "p.json", "--plot": "p.png"}
    options = [part for pair in files.items() for part in pair]
    status, out, err = run(
        capsys, networks, "--input", "1x3x10x10", "--batch", "2", *options,
    )  # fmt: skip
    assert (status, err) == (0, "")
    assert "input 2×3×10×10" in out
    figures = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert figures["name"] == networks
    assert figures["macs"] == 2 * 4 * 3 * 9 * 64
    assert all((tmp_path / name).stat().st_size > 1000 for name in files.values())


def test_two_networks(networks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = networks.replace("image", "small")
    status, out, _ = run(
        capsys, networks, "--compare", other, "--input", "1x3x10x10", "--json", "p.json", "--html", "p.html"
    )
    assert status == 0
    assert "2.0× fewer" in out
    stored = json.loads((tmp_path / "p.json").read_text(encoding="utf-8"))
    assert [n["name"] for n in stored["networks"]] == [networks, other]
    assert f"{other} against {networks}" in (tmp_path / "p.html").read_text(encoding="utf-8")


def test_on_a_device(networks: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    options = ("--input", "1x3x10x10", "--device", "h200", "--html", "p.html", "--plot", "p.svg")
    status, out, _ = run(capsys, networks, *options)
    assert status == 0
    assert "Predicted on NVIDIA H200" in out
    assert "Roofline: NVIDIA H200" in (tmp_path / "p.html").read_text(encoding="utf-8")
    assert "HBM3e 4.27 TB/s" in (tmp_path / "p.svg").read_text(encoding="utf-8")
    status, out, _ = run(capsys, networks, *options[:4], "--compare", networks)
    assert "B is\n" in out
    assert "equal" in out
    assert "  B  " in out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["{net}", "--device", "h20"], "nor in the catalogue (cpu"),
        (["zoo:resnet56_fashon"], "did you mean 'zoo:resnet56_fashion_mnist'"),
        (["{net}", "--compare", "nowhere:nothing"], "no module 'nowhere'"),
        (["{net}", "--input", "1x4x10x10"], "given 1×4×10×10"),
        (["{net}", "--input", "1x3xten"], "--input '1x3xten' is no shape"),
        (["{net}", "--html", "."], "--html .: is a folder"),
        (["{net}", "--json", "profiled_networks.py/x.json"], "is no folder"),
        (["{net}", "--plot", "x.gif"], "the ending must be .png, .svg or .pdf"),
        (["{net}", "--input", "1x3x10x10", "--html", "/proc/nothing/p.html"], "cannot write /proc/nothing"),
        (["{net}", "--batch", "0"], "--batch"),
    ],
)
def test_one_line_says_what_is_wrong(
    arguments: list[str], says: str, networks: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _, err = run(capsys, *(argument.format(net=networks) for argument in arguments))
    assert status in (1, 2)
    assert says in err
    assert len(err.strip().splitlines()) == 1


def test_a_picture_without_matplotlib_names_the_extra(
    networks: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    status, out, err = run(capsys, networks, "--plot", "p.png")
    assert (status, out) == (1, "")
    assert "pip install 'tenfold[plot]'" in err
