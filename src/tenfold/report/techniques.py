"""The techniques with what was measured of each, as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tenfold.report import wording

ABSENT = "–"
COLUMNS = ("technique", "\nfile", "\nstored", "\nfaster (95%)", "points lost\n(95%)", "baseline\nloses")


def techniques_table(entries: Sequence[dict[str, Any]], recipes: Sequence[tuple[str, str]]) -> RenderableType:
    """`compress.known_results()` as a table, and under it the recipes that ship as (name, text)."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False)
    for name in COLUMNS:
        table.add_column(name, justify="left" if name == "technique" else "right")
    measured: dict[str, list[str]] = {}
    without: list[str] = []
    for entry in entries:
        if not entry["results"]:
            without.append(entry["technique"])
            continue
        table.add_row(Text(entry["technique"], style="bold"))
        for row in entry["results"]:
            how = f"{row['network']} on {row['data']}, {row['runtime']}, {row['processor']}, {row['date']}"
            measured.setdefault(how, []).append(row["variant"])
            table.add_row(*_cells(row))
    notes = [
        "file: times smaller than the fp32 export as the runtime takes it; stored: the saved network (weights and "
        "structure) against the saved original; faster: 1.00 is no gain. Baseline: the trivial way to the same size.",
        *_measured(measured),
    ]
    parts: list[RenderableType] = [table, Text(" ".join(notes), style="dim")] if table.rows else []
    if without:
        parts.append(Text(f"No result yet: {', '.join(without)}"))
    if recipes:
        listed = Table(title=Text("\nRecipes: tenfold apply NAME NETWORK"), title_justify="left", box=None, padding=(0, 1), show_header=False)  # fmt: skip
        for name, text in recipes:
            listed.add_row(Text(name, style="bold", no_wrap=True), Text(text))
        parts.append(Padding(listed, 0))
    return Group(*parts)


def _measured(measured: dict[str, list[str]]) -> list[str]:
    """How the rows were measured: that of the most, and by name those that were measured otherwise."""
    most, *others = sorted(measured, key=lambda how: -len(measured[how])) or [""]
    texts = [f"Measured: {most}"] if most else []
    texts += [f"{'; '.join(measured[how])}: {how}, against the original there" for how in others]
    return [f"{text}." for text in texts]


def _cells(row: dict[str, Any]) -> list[Text]:
    faster, drop, baseline = row["times_faster"], row["drop"], row["baseline"]
    speed = f"{faster['value']:.2f}× ({faster['low']:.2f}…{faster['high']:.2f})"
    if faster["low"] <= 1.0:
        speed = f"no: {speed}"
    texts = (
        wording.ratio(row["times_smaller"]["file"]),
        wording.ratio(row["times_smaller"]["folder"]),
        speed,
        _points(drop),
        ABSENT if baseline is None else f"{100 * baseline['drop']['value']:.2f}",
    )
    return [Text(f"  {row['variant']}"), *map(Text, texts)]


def _points(drop: dict[str, float]) -> str:
    return f"{100 * drop['value']:.2f} ({100 * drop['low']:.1f}…{100 * drop['high']:.1f})"
