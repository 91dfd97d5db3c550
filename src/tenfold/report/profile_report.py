"""The page of `tenfold profile --html`: one network, or two side by side, in one HTML file that opens offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from tenfold.errors import OutputError
from tenfold.files import write_text
from tenfold.report import wording
from tenfold.report.layers import SIDES, drawn, grouped, matched
from tenfold.report.page import render
from tenfold.report.profile_view import BOUND, Alike, LayerView, View, alike
from tenfold.report.roofs import COMPUTE, MEMORY, OVERHEAD, Roofs
from tenfold.report.totals import totals

STAGE_QUANTITIES = {"ms": "Time", "macs": "MACs", "params": "Parameters"}
MOST_HELD = 12  # tensors listed at the peak of memory
KINDS = {
    "dense": "convolution or matrix product",
    "depthwise": "depthwise convolution",
    "attention": "attention",
    "other": "everything else",
}
BOUNDS = {bound: f"bound by {bound}" for bound in (COMPUTE, MEMORY, OVERHEAD)}
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
    timed = all(view.estimate for view in views)
    context: dict[str, Any] = {
        "roofs": roofs,
        "words": wording,
        "headline": headline(views, roofs),
        "lead": lead(views, roofs),
        "tiles": tiles(views[0], roofs),
        "totals": totals(views[0], views[1]) if len(views) == 2 else [],
        "points": any(layer.flops for view in views for layer in view.layers),
        "legend": _legend(views),
        "marks": {key: Markup(_mark(key)) for key in SYMBOLS},
        "note": _note(views, roofs),
        "memory": any(view.memory for view in views),
        "most_held": MOST_HELD,
        "weights": " and ".join(wording.size(view.weight_bytes) for view in views),
        "quantities": [(key, name) for key, name in STAGE_QUANTITIES.items() if key != "ms" or timed],
        "groups": stages(views),
        "headings": _headings(timed),
        "rows": [_rows(view, timed) for view in views],
        "provenance": _provenance(views, roofs, provenance or {}),
        "chart": chart_data(views, points, roofs),
    }
    scripts = ("charts.js", "roofline.js", "timeline.js", "points.js")
    write_text(
        path,
        render("profile.html.j2", scripts, styles=("page.css", "profile.css"), views=list(views), **context),
    )


def headline(views: Sequence[View], roofs: Roofs | None) -> str:
    """The answer in a line."""
    if len(views) == 2:
        a, b = views
        # The ratios of what matters most: time where there is one, else arithmetic.
        rows = {row["name"]: row["ratio"] for row in totals(a, b)}
        said = [
            f"{rows[name]} {what}"
            for name, what in (("MACs", "MACs"), ("Parameters", "parameters"))
            if rows[name]
        ]
        if rows.get("Latency"):
            said.insert(0, str(rows["Latency"]))
        return f"{b.name} against {a.name}: {', '.join(said)}" if said else f"{b.name} against {a.name}"
    (one,) = views
    counted = f"{wording.amount(one.macs)} MACs and {wording.amount(one.params)} parameters"
    if one.ms is None or roofs is None:
        return f"{one.name}: {counted}"
    return f"{one.name}: {_latency(one)} on {roofs.device}"


def lead(views: Sequence[View], roofs: Roofs | None) -> str:
    """What the time goes to, where there is one."""
    if roofs is None or any(view.ms is None for view in views):
        return ""
    said = []
    for view in views:
        shares = [
            f"{view.share(bound):.0%} of it bound by {bound}"
            for bound in BOUNDS
            if view.share(bound) >= 0.005
        ]
        said.append((f"{view.name}: " if len(views) == 2 else "") + ", ".join(shares))
    how = (
        "The time is the roofline's bound: the least that peak rate and bandwidth allow."
        if _bounded(views)
        else ""
    )
    return (
        " ".join(f"{text[0].upper() if len(views) == 1 else text[0]}{text[1:]}." for text in said if text)
        + f" {how}"
    )


def tiles(one: View, roofs: Roofs | None) -> list[tuple[str, str, str]]:
    """(name, figure, what to know beside it) of the figures on top."""
    memory = one.memory
    rows = [
        ("Arithmetic", f"{wording.amount(one.macs)} MACs", f"{wording.amount(one.flops)} FLOPs; {wording.amount(one.other_flops)} beside the products"),
        ("Parameters", wording.amount(one.params), f"{wording.size(one.weight_bytes)} with buffers"),
        ("Peak activations", wording.size(one.peak_bytes), f"in {memory.peak.layer}" if memory else ""),
        ("Moved", wording.size(one.moved), f"{wording.significant(one.intensity)} FLOP for each byte"),
    ]  # fmt: skip
    if one.ms is not None and roofs is not None:
        interval = ""
        if one.interval is not None:
            interval = f", 90% interval {wording.significant(one.interval[0])} to {wording.significant(one.interval[1])}"
        how = "the roofline's bound" if one.estimate == BOUND else "predicted"
        rows.insert(0, ("Latency", _latency(one), f"{how}, {roofs.dtype}{interval}"))
    return rows


def _latency(one: View) -> str:
    text = wording.milliseconds(one.ms)
    return f"at least {text}" if one.estimate == BOUND else text


def _bounded(views: Sequence[View]) -> bool:
    return any(view.estimate == BOUND for view in views)


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
        return [{"name": name, "rate": rate, "main": name == main} for name, rate in order]

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


def _legend(views: Sequence[View]) -> list[tuple[str, str]]:
    """(mark, text): the networks of two, what binds the layers of one, or what they do where there is no device."""
    if len(views) == 2:
        return [("compute", views[0].name), ("memory", views[1].name)]
    layers = [layer for layer in views[0].layers if layer.flops]
    if any(layer.bound for layer in layers):
        return [(key, text) for key, text in BOUNDS.items() if any(layer.bound == key for layer in layers)]
    kinds = {layer.kind if layer.kind in KINDS else "other" for layer in layers}
    return [(key, text) for key, text in KINDS.items() if key in kinds]


def _mark(key: str) -> str:
    shape = SHAPES[SYMBOLS[key]]
    return f'<svg viewBox="-8 -8 16 16" aria-hidden="true" class="s-{key}">{shape}</svg>'


def _note(views: Sequence[View], roofs: Roofs | None) -> str:
    idle = sum(not layer.flops for view in views for layer in view.layers)
    said = ["Layers that are alike are one mark; its area is their share of the "
            + ("time." if roofs else "work.")]  # fmt: skip
    if roofs:
        said.append(f"The thick roof is {roofs.dtype} from {roofs.level}.")
    if idle:
        moved = (
            "1 layer that only moves data has" if idle == 1 else f"{idle:,} layers that only move data have"
        )
        said.append(f"{moved} no intensity and no mark here; the bars below have them.")
    return " ".join(said)


def _headings(timed: bool) -> list[tuple[str, bool]]:
    """The columns' names, and which one the table comes sorted by."""
    names = ["Layer", "Order", "Parameters", "MACs", "Moved", "FLOP/B"]
    if timed:
        names += ["Time", "Bound"]
    return [(name, name == ("Time" if timed else "MACs")) for name in names]


def _rows(view: View, timed: bool) -> list[dict[str, Any]]:
    """The table's rows, the costliest first."""
    order = list(BOUNDS)

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
            found += [("Time", layer.ms, short_time(layer.ms)), ("Bound", bound, layer.bound or "–")]
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


def _provenance(
    views: Sequence[View], roofs: Roofs | None, given: Mapping[str, str]
) -> list[tuple[str, str]]:
    rows = [
        ("figures", "Counted on shapes alone, not measured: one forward pass in eval mode. MACs are the multiply-adds of convolutions, matrix products and attention; a MAC is 2 FLOPs."),
        ("bytes", "As eager execution reads and writes them, each operator on its own, caches apart."),
    ]  # fmt: skip
    if roofs is not None:
        peaks = ", ".join(
            f"{name} {wording.significant(rate / 1e12)} TFLOP/s" for name, rate in roofs.peaks.items()
        )
        levels = ", ".join(
            f"{name} {wording.significant(rate / 1e9)} GB/s" for name, rate in roofs.bandwidths.items()
        )
        rows.append(("device", f"{roofs.device}: {peaks}; {levels}"))
        if roofs.source:
            rows.append(("its source", roofs.source))
        how = (
            "the roofline's bound, the larger of arithmetic at peak rate and bytes at full bandwidth, for each operator"
            if _bounded(views)
            else "predicted for each operator and summed"
        )
        rows.append(("times", f"{how[0].upper()}{how[1:]}."))
    return [*rows, *given.items()]
