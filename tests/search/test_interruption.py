"""Ctrl-C through the command: one line, and an exit status of its own."""

from __future__ import annotations

import pytest

from tenfold.cli.app import main


def test_ctrl_c_is_one_line_and_130(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("tenfold.cli.searches.read_task", interrupted)
    with pytest.raises(SystemExit) as left:
        main(["shrink", "zoo:resnet56_fashion_mnist", "--data", "tenfold.data:fashion_mnist"])
    assert left.value.code == 130
    lines = [line for line in capsys.readouterr().err.splitlines() if line.strip()]
    assert lines == ["tenfold: interrupted; what was finished is kept, the same command goes on from there"]
