"""Ctrl-C through the command: one line, and an exit status of its own."""

from __future__ import annotations

import pytest

from tenfold.cli.app import main

SAMPLE = ["zoo:resnet56_fashion_mnist", "--data", "tenfold.data:fashion_mnist"]


@pytest.mark.parametrize(
    ("command", "room", "kept"),
    [
        (
            ["shrink", *SAMPLE],
            "searches.read_task",
            "what was finished is kept, the same command goes on from there",
        ),
        (["apply", "int8", *SAMPLE], "searches.read_task", "nothing is kept, the same command begins again"),
        (["blame", *SAMPLE], "compression.read_task", "nothing is kept, the same command begins again"),
        (
            ["train", *SAMPLE],
            "training.network_for",
            "with --resume the same command goes on from the checkpoint in --out, if it had begun to train",
        ),
    ],
)
def test_ctrl_c_is_one_true_line_and_130(command, room, kept, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(f"tenfold.cli.{room}", interrupted)
    with pytest.raises(SystemExit) as left:
        main(command)
    assert left.value.code == 130
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines == [f"tenfold: interrupted; {kept}"]
