"""The picture of training runs: a line for each that can be told apart, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from tenfold.errors import OutputError
from tenfold.report import learning_curves


def runs(number: int) -> dict[str, list[dict[str, float]]]:
    return {
        f"run ${n}": [
            {"epoch": e, "seconds": 2.0 * e, "accuracy": 0.2 + 0.04 * e + n / 100} for e in range(1, 13)
        ]
        for n in range(number)
    }


def test_every_run_has_its_own_line_and_the_same_data_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    learning_curves(runs(14), tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "stroke-dasharray" in text  # the colours are used up after eight
    learning_curves(runs(14), tmp_path / "b.png")
    learning_curves(runs(14), tmp_path / "c.png")
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"\.png, \.svg or \.pdf"):
        learning_curves(runs(1), tmp_path / "a.jpg")
    with pytest.raises(OutputError, match="no run has a point"):
        learning_curves({"a": []}, tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []
