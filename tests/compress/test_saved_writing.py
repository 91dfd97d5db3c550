"""Saving a network: whole or not at all, never over another one, and nothing that would not read back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_techniques import Narrow, Small
from saved_networks import X, shrunk
from torch import nn

from tenfold.compress import Step, load, save
from tenfold.compress.weights import packed
from tenfold.errors import NetworkError, OutputError, RecipeError


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
