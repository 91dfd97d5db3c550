"""The figures of `tenfold blame` as a table for the terminal and as a heat map in one HTML file.

Both are drawn from plain data, `compress.blame.Blame.to_json()`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tenfold.files import write_text
from tenfold.report.page import render

ABSENT = "–"
METRIC = "metric lost"
WORST = 10  # layers that the short table names
FIGURE, GAP = 7, 3  # characters of a figure in a terminal, and between two columns
STRONGEST = 75  # per cent of the colour in the hottest cell, so that its figure can still be read
DECADES = 4.0  # that the colours span, down from the hottest
STEPS = ("", "yellow", "dark_orange", "bold red")  # of heat in a terminal


def blame_tables(data: dict[str, Any], width: int) -> list[Table]:
    """`blame_table` in as many pieces, to stand below each other, as leave every name and figure whole in `width`."""
    groups, hottest = _groups(data, width), _hottest(data)
    return [blame_table({**data, "columns": group}, hottest, caption=group is groups[-1]) for group in groups]


def worst_tables(data: dict[str, Any], width: int) -> list[Table]:
    """Which layers lose most of the metric, the worst first, by changes; in pieces as `blame_tables`."""
    return [_worst_table(data, group) for group in _groups(data, width)]


def _worst_table(data: dict[str, Any], columns: list[dict[str, Any]]) -> Table:
    rows = data["worst"]
    count = f"the {WORST} worst of {len(rows)} layers" if len(rows) > WORST else "the worst first"
    title = f"{METRIC} by each layer alone, {count}"
    table = Table(
        title=Text(title, style="bold"), title_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False,
    )  # fmt: skip
    table.add_column("layer")
    for column in columns:
        table.add_column(column["change"], justify="right")
    for row in rows[:WORST]:
        lost = (row["lost"].get(column["change"]) for column in columns)
        cells = (ABSENT if drop is None else f"{drop:+.4f}" for drop in lost)
        table.add_row(Text(row["layer"]), *map(Text, cells))
    return table


def _groups(data: dict[str, Any], width: int) -> list[list[dict[str, Any]]]:
    """The columns in runs, each of which leaves every name and figure whole in a table of this width."""
    first = max(map(len, (*_layers(data), METRIC))) + GAP
    groups: list[list[dict[str, Any]]] = [[]]
    left = width - first
    for column in data["columns"]:
        needed = max(len(column["change"]), FIGURE) + GAP
        if groups[-1] and needed > left:
            groups.append([])
            left = width - first
        groups[-1].append(column)
        left -= needed
    return groups


def blame_table(data: dict[str, Any], hottest: float | None = None, *, caption: bool = True) -> Table:
    """Layers by changes; a cell is the harm of this layer alone, the last row that of all at once.

    `hottest` is the harm that has the strongest colour, by default the greatest of all.
    """
    table = Table(
        caption=Text(_legend(data)) if caption else None,
        box=box.SIMPLE_HEAD,
        caption_justify="left",
        padding=(0, 1),
        show_edge=False,
    )
    table.add_column("layer")
    columns = data["columns"]
    hottest = _hottest(data) if hottest is None else hottest
    for column in columns:
        table.add_column(column["change"], justify="right")
    for layer in _layers(data):
        cells = []
        for column in columns:
            alone = _alone(column, layer)
            style = "" if alone is None else STEPS[min(3, int(_heat(alone, hottest) * 4))]
            cells.append(Text(_figure(alone), style=style))
        table.add_row(Text(layer), *cells)
    table.add_section()
    table.add_row(Text("all at once"), *(Text(_whole(column), style="bold") for column in columns))
    drops = (ABSENT if column["whole"] is None else f"{column['whole']['drop']:+.4f}" for column in columns)
    table.add_row(Text(METRIC), *map(Text, drops))
    return table


def change_table(column: dict[str, Any]) -> Table:
    """One change in full: the layers from the most to the least harmful, with every figure."""
    table = Table(
        title=Text(f"{column['change']}: {column['text']}", style="bold"), title_justify="left",
        box=box.SIMPLE_HEAD, padding=(0, 1), show_edge=False,
    )  # fmt: skip
    for name in (
        "layer",
        "SNR, dB",
        "alone",
        "all but it",
        "it and all\nless harmful",
        "metric lost\nby then",
    ):
        table.add_column(name, justify="left" if name == "layer" else "right")
    rows = column["layers"]
    known = [name for name in rows if rows[name]["alone"] is not None]
    for name in sorted(known, key=lambda name: -rows[name]["alone"]["distance"]):
        row, figures = rows[name], []
        for key in ("alone", "spared", "reached"):
            figures.append(_figure(None if row[key] is None else row[key]["distance"]))
        lost = ABSENT if row["reached"] is None else f"{row['reached']['drop']:+.4f}"
        table.add_row(Text(name), f"{row['snr_db']:.1f}", *figures, lost)
    return table


def write_blame_map(data: dict[str, Any], path: Path | str, network: str) -> None:
    """Draw `data` as one HTML file that opens offline."""
    columns, hottest = data["columns"], _hottest(data)
    rows = [
        {"layer": layer, "cells": [_cell(column, layer, hottest) for column in columns]}
        for layer in _layers(data)
    ]
    page = render(
        "blame.html.j2",
        scripts=(),
        plotly=False,
        network=network,
        title=_title(data),
        unit=_unit(data),
        examples=data["examples"],
        finished=data["finished"],
        columns=[{**column, "whole": _whole(column)} for column in columns],
        rows=rows,
    )
    write_text(path, page)


def _cell(column: dict[str, Any], layer: str, hottest: float) -> dict[str, Any]:
    row, alone = column["layers"].get(layer), _alone(column, layer)
    if row is None or alone is None:
        return {
            "text": ABSENT,
            "heat": 0,
            "title": f"{layer}, {column['change']}: not measured, or left as it is",
        }
    parts = [
        f"{layer}, {column['change']}",
        f"SNR {row['snr_db']:.1f} dB",
        f"metric {-row['alone']['drop']:+.4f}",
    ]
    for key, words in (("spared", "all but it"), ("reached", "it and all less harmful")):
        if row[key] is not None:
            parts.append(f"{words}: {_figure(row[key]['distance'])}, metric {-row[key]['drop']:+.4f}")
    return {
        "text": _figure(alone),
        "heat": round(STRONGEST * _heat(alone, hottest)),
        "title": "; ".join(parts),
    }


def _title(data: dict[str, Any]) -> str:
    """The layer to look at first."""
    worst = [
        (row["alone"]["distance"], layer, column["change"])
        for column in data["columns"]
        for layer, row in column["layers"].items()
        if row["alone"] is not None
    ]
    if not worst:
        return "Nothing was measured in time"
    _, layer, change = max(worst)
    return f"{layer} is hurt most, by {change}"


def _legend(data: dict[str, Any]) -> str:
    text = (
        f"how far the answers move ({_unit(data)}) when this layer alone is changed, on {data['examples']} validation "
        f"examples; the metric is {data['score']:.4f} unchanged"
    )
    return text if data["finished"] else f"{text}; the time was over before everything was measured"


def _unit(data: dict[str, Any]) -> str:
    return "KL divergence, nats" if data["classes"] else "squared error, share of the energy"


def _layers(data: dict[str, Any]) -> list[str]:
    """All layers that any column has, in the order of the first that has them."""
    return list(dict.fromkeys(layer for column in data["columns"] for layer in column["layers"]))


def _alone(column: dict[str, Any], layer: str) -> float | None:
    row = column["layers"].get(layer)
    return None if row is None or row["alone"] is None else float(row["alone"]["distance"])


def _hottest(data: dict[str, Any]) -> float:
    figures = [_alone(column, layer) or 0.0 for column in data["columns"] for layer in column["layers"]]
    return max(figures, default=0.0)


def _heat(value: float, hottest: float) -> float:
    """0 to 1, by the logarithm, over the last decades below the hottest."""
    if value <= 0 or hottest <= 0:
        return 0.0
    return min(1.0, max(0.0, 1 + math.log10(value / hottest) / DECADES))


def _figure(value: float | None) -> str:
    return ABSENT if value is None else f"{max(value, 0.0):.2g}"


def _whole(column: dict[str, Any]) -> str:
    return ABSENT if column["whole"] is None else _figure(column["whole"]["distance"])
