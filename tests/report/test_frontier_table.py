"""The table in the terminal and the still picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from frontier_sample import CANDIDATES, VARIANTS, one_candidate, sample
from rich.console import Console

from tenfold.errors import OutputError
from tenfold.report import frontier_table, static_plot


def printed(data: dict[str, Any], width: int = 80) -> list[str]:
    console = Console(width=width, color_system=None, legacy_windows=False)
    with console.capture() as capture:
        console.print(frontier_table(data))
    return capture.get().splitlines()


@pytest.mark.parametrize("name", VARIANTS)
def test_table_fits_80_columns_with_its_figures_whole(name: str) -> None:
    data = VARIANTS[name]()
    lines = printed(data)
    assert all(len(line) <= 80 for line in lines)
    for point in data["points"]:
        row = next(line for line in lines if point["id"] in line.split()[:2])
        figures = row[row.index("…") + 1 :] if point["kind"] == "candidate" else row
        assert "…" not in figures.replace("…", "", 1)  # the one within the interval of the loss
        assert f"{point['latency_ms']:.3g}" in row


def test_best_is_marked_and_named_in_full() -> None:
    lines = printed(sample())
    row = next(line for line in lines if line.startswith("★ c3"))
    for figure in ("94.12", "0.48 (0.20…0.76)", "0.306", "11.2", "0.323", "3.4", "45.2", "✓"):
        assert figure in row.split() or figure in row
    assert f"★ best, c3: {CANDIDATES[2][0]}" in "\n".join(line.rstrip() for line in lines)
    assert any(CANDIDATES[2][0] in line and "0.306" in line for line in printed(sample(), width=160))


def test_missing_figures_are_dashes_and_validation_is_starred() -> None:
    row = next(line for line in printed(one_candidate()) if line.startswith("★ c1"))
    assert "94.59*" in row
    assert row.split()[-2] == "–"


def test_labels_are_not_markup() -> None:
    data = sample()
    data["message"] = "[bold]not markup[/bold] [/nothing]"
    assert any("[bold]not markup[/bold] [/nothing]" in line for line in printed(data))


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize("name", VARIANTS)
def test_still_picture(name: str, ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    path = tmp_path / f"frontier.{ending}"
    static_plot(VARIANTS[name](), path)
    start = path.read_bytes()[:8]
    assert start == b"\x89PNG\r\n\x1a\n" if ending == "png" else start.startswith(b"<?xml")
    assert len(list(tmp_path.iterdir())) == 1


def test_still_picture_needs_something_to_draw(tmp_path: Path) -> None:
    data = sample()
    for point in data["points"]:
        point["latency_ms"] = None
    with pytest.raises(OutputError, match="no point has both a latency and a score"):
        static_plot(data, tmp_path / "a.png")
    with pytest.raises(OutputError, match=r"must be \.png, \.svg or \.pdf"):
        static_plot(sample(), tmp_path / "a.gif")
