"""Where the outcome cannot be written, that is told before the work that would be lost."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tenfold.cli.app import main
from tenfold.compress import Recipe
from tenfold.compress.quantize import Quantize
from tenfold.data import Task
from tenfold.errors import OutputError
from tenfold.files import beside, check_writable
from tenfold.search import applying


def unreached(*_: object, **__: object) -> None:
    raise AssertionError("the work was begun")


def test_a_recipe_is_not_begun_for_a_folder_that_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(applying, "apply_recipe", unreached)
    (tmp_path / "file").touch()
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    task = Task(nn.Linear(4, 3), (x, torch.arange(20) % 3))
    with pytest.raises(OutputError, match=r"cannot write .*made: "):
        applying.apply_to_folder(Recipe((Quantize(),)), task, tmp_path / "file" / "made")


def test_an_interrupted_recipe_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), beside(tmp_path / "made") as working:
        (working / "model.onnx").touch()
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "command",
    [
        ["blame", "nowhere:net", "--json"],
        ["blame", "nowhere:net", "--html"],
        ["pack", "nowhere:net", "a.pack", "--json"],
        ["bench", "nowhere:net", "--json"],
        ["calibrate", "--out"],
        ["train", "nowhere:net", "--data", "nowhere:data", "--out"],
    ],
)
def test_commands_look_at_their_files_first(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as left:
        main([*command, str(tmp_path / "file" / "x.json")])
    assert left.value.code == 1
    told = capsys.readouterr().err
    assert f"{command[-1]} {tmp_path}" in told
    assert "file is no folder" in told


def test_what_can_be_written_passes_and_leaves_nothing(tmp_path: Path) -> None:
    check_writable("--json", None)
    check_writable("--json", tmp_path / "not" / "there" / "x.json")
    assert not list(tmp_path.iterdir())
    with pytest.raises(OutputError, match="is a folder; name a file"):
        check_writable("--json", tmp_path)
