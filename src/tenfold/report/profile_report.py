"""The page of `tenfold profile --html`: one network, or two side by side, in one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tenfold.cost.device_prediction import FUSED
from tenfold.errors import OutputError
from tenfold.files import write_text
from tenfold.report import profile_words as words
from tenfold.report import wording
from tenfold.report.layers import SIDES, drawn, grouped, matched
from tenfold.report.page import render
from tenfold.report.profile_view import Alike, LayerView, View, alike
from tenfold.report.profile_words import BOUNDS, KINDS
from tenfold.report.roofs import Roofs
from tenfold.report.totals import totals

STAGE_QUANTITIES = {"ms": "Time", "macs": "MACs", "params": "Parameters"}
MOST_HELD = 12  # tensors listed at the peak of memory
SHAPES = {
    "circle": '<circle r="5.5"/>',
    "diamond": '<path d="M0-6.5 6.5 0 0 6.5-6.5 0z"/>',
    "square": '<path d="M-5-5H5V5H-5z"/>',
    "triangle": '<path d="M0-6 6 5H-6z"/>',
}
SYMBOLS = {
    "compute": "circle", "memory": "diamond", "overhead": "square",
    "dense": "circle", "depthwise": "diamond", "attention": "triangle", "other": "square",
}  # fmt: skip


def write_profile(
    views: Sequence[View],
    path: Path | str,
    roofs: Roofs | None = None,
    provenance: Mapping[str, str] | None = None,
) -> None:
    """Draw one network, or two compared, as an HTML file at `path`, under the `roofs` that the views were made with.

    `provenance` is added to what the page says of its figures. Raises `OutputError` where there is nothing to draw
    or the file cannot be written.
    """
    if len(views) not in (1, 2) or not all(view.layers for view in views):
        raise OutputError("a profile shows one network or two, and each must run at least one operator")
    points = [alike(view.layers) for view in views]
    timed = all(view.how for view in views)
    context: dict[str, Any] = {
        "roofs": roofs,
        "words": wording,
        "headline": words.headline(views, roofs),
        "lead": words.lead(views, roofs),
        "tiles": words.tiles(views[0], roofs),
        "totals": totals(views[0], views[1]) if len(views) == 2 else [],
        "points": any(layer.flops for view in views for layer in view.layers),
        "legend": words.legend(views),
        "marks": {key: Markup(_mark(key)) for key in SYMBOLS},
        "note": words.note(views, roofs),
        "memory": any(view.memory for view in views),
        "most_held": MOST_HELD,
        "weights": " and ".join(wording.size(view.weight_bytes) for view in views),
        "quantities": [(key, name) for key, name in STAGE_QUANTITIES.items() if key != "ms" or timed],
        "groups": stages(views),
        "headings": _headings(timed),
        "rows": [_rows(view, timed) for view in views],
        "provenance": words.provenance(views, roofs, provenance or {}),
        "chart": chart_data(views, points, roofs),
    }
    scripts = ("charts.js", "roofline.js", "timeline.js", "points.js")
    write_text(
        path,
        render("profile.html.j2", scripts, styles=("page.css", "profile.css"), views=list(views), **context),
    )


def stages(views: Sequence[View]) -> list[dict[str, Any]]:
    """Layers by the beginnings of their names; of two networks, stages of one name stand in one row."""
    before, after = (_costs(view) for view in (views[0], views[-1]))
    groups = grouped(matched({"before": before if len(views) == 2 else [], "after": after}))  # type: ignore[typeddict-item]
    rows = []
    for row, group in zip(drawn(groups), groups, strict=True):
        if not any(group.total(side, key) for side in SIDES for key in STAGE_QUANTITIES):
            continue  # it costs nothing, like a dropout
        for key, bars in row["bars"].items():
            for side in SIDES:
                total = group.total(side, key)
                if all(getattr(layer, side) is None for layer in group.rows):
                    bars[f"{side}_text"] = ""  # the other network's
                elif total == 0:
                    bars[side], bars[f"{side}_text"] = None, "–"
                elif key == "ms":
                    bars[f"{side}_text"] = short_time(total)
        rows.append(row)
    return rows


def _costs(view: View) -> list[dict[str, Any]]:
    """A layer's operators together, in order of the first; a sum lacks a time where one of them does."""
    members: dict[str, list[LayerView]] = {}
    for layer in view.layers:
        members.setdefault(layer.name, []).append(layer)
    costs = []
    for name, layers in members.items():
        times = [layer.ms for layer in layers]
        cost: dict[str, Any] = {"name": name, "op": None}
        cost["macs"] = sum(layer.macs for layer in layers)
        cost["params"] = sum(layer.params for layer in layers)
        cost["ms"] = None if None in times else sum(time for time in times if time is not None)
        costs.append(cost)
    return costs


def chart_data(
    views: Sequence[View], points: Sequence[Sequence[Alike]], roofs: Roofs | None
) -> dict[str, Any]:
    """What the scripts draw."""
    return {
        "roofs": None if roofs is None else _roofs(roofs),
        "views": [
            {
                "name": view.name,
                "points": [_point(group) for group in groups],
                "layers": [_layer(layer) for layer in view.layers],
                "memory": _memory(view),
            }
            for view, groups in zip(views, points, strict=True)
        ],
    }


def _roofs(roofs: Roofs) -> dict[str, Any]:
    def listed(rates: Mapping[str, float], main: str) -> list[dict[str, Any]]:
        # The one that counts first, so that its name is placed first.
        order = sorted(rates.items(), key=lambda item: (item[0] != main, -item[1]))
        alike: dict[float, str] = {}
        for name, rate in order:
            alike[rate] = f"{alike[rate]}, {name}" if rate in alike else name
        return [{"name": names, "rate": rate, "main": rate == rates[main]} for rate, names in alike.items()]

    return {
        "peak": roofs.peak,
        "bandwidth": roofs.bandwidth,
        "peaks": listed(roofs.peaks, roofs.dtype),
        "bandwidths": listed(roofs.bandwidths, roofs.level),
    }


def _layer(layer: LayerView) -> dict[str, Any]:
    return {
        "number": layer.number,
        "name": layer.name,
        "op": layer.op,
        "kind": layer.kind if layer.kind in KINDS else "other",
        "shape": layer.shape,
        "macs": layer.macs,
        "flops": layer.flops,
        "moved": layer.moved,
        "intensity": layer.intensity,
        "ms": layer.ms,
        "bound": layer.bound,
    }


def _point(group: Alike) -> dict[str, Any]:
    """One point: the figures of one layer, but the time and the work of all that are alike."""
    first, count = group.layers[0], len(group.layers)
    return {
        **_layer(first),
        "name": group.name,
        "short": group.short,
        "count": count,
        "flops": first.flops * count,
        "ms": None if first.ms is None else first.ms * count,
    }


def _memory(view: View) -> dict[str, Any] | None:
    if view.memory is None:
        return None
    steps = [[step.number, step.layer, step.op, step.live] for step in (*view.memory.steps, view.memory.peak)]
    return {"operators": view.memory.operators, "steps": steps[:-1], "peak": steps[-1]}


def _mark(key: str) -> str:
    shape = SHAPES[SYMBOLS[key]]
    return f'<svg viewBox="-8 -8 16 16" aria-hidden="true" class="s-{key}">{shape}</svg>'


def _headings(timed: bool) -> list[tuple[str, bool]]:
    """The columns' names, and which one the table comes sorted by."""
    names = ["Layer", "Order", "Parameters", "MACs", "Moved", "FLOP/B"]
    if timed:
        names += ["Time", "Bound"]
    return [(name, name == ("Time" if timed else "MACs")) for name in names]


def _rows(view: View, timed: bool) -> list[dict[str, Any]]:
    """The table's rows, the costliest first."""
    order = [*BOUNDS, FUSED]

    def cells(layer: LayerView) -> list[tuple[str, float | None, str]]:
        found: list[tuple[str, float | None, str]] = [
            ("Order", layer.number, str(layer.number)),
            ("Parameters", layer.params, wording.amount(layer.params)),
            ("MACs", layer.macs, wording.amount(layer.macs)),
            ("Moved", layer.moved, wording.size(layer.moved)),
            ("FLOP/B", layer.intensity, wording.significant(layer.intensity)),
        ]
        if timed:
            bound = None if layer.bound is None else float(order.index(layer.bound))
            found += [
                ("Time", layer.ms, "–" if layer.fused else short_time(layer.ms)),
                ("Bound", bound, layer.bound or "–"),
            ]
        return found

    weight = (lambda layer: layer.ms or 0.0) if timed else (lambda layer: layer.macs)
    return [
        {
            "name": layer.name,
            "op": layer.op,
            "shape": layer.shape,
            "calls": layer.calls,
            "cells": cells(layer),
        }
        for layer in sorted(view.layers, key=weight, reverse=True)
    ]


def short_time(ms: float | None) -> str:
    """A layer's time in the unit that suits it: '1.2 ms', '34.1 µs', '820 ns'."""
    if ms is None:
        return wording.NOT_MEASURED
    for factor, unit in ((1.0, "ms"), (1e3, "µs")):
        if ms * factor >= 1:
            return f"{wording.significant(ms * factor)} {unit}"
    return f"{ms * 1e6:.0f} ns"
