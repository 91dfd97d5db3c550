"""The report of `tenfold shrink`: from the data of `frontier.json` (see `schema`) to one HTML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tenfold.files import write_text
from tenfold.report import wording
from tenfold.report.layers import drawn, grouped, matched, measured
from tenfold.report.page import render
from tenfold.report.schema import Phase, Point, Report, completed
from tenfold.report.verdict import by_id, headline, loss, times, verdicts

BASELINES = {
    "eager": "PyTorch, run eagerly, as it came",
    "onnx-fp32": "exported in fp32",
    "onnx-int8-static": "plain static INT8, nothing else changed",
    "onnx-int8-dynamic": "plain dynamic INT8, nothing else changed",
}


def write_report(data: dict[str, Any], path: Path | str) -> None:
    """Draw `data` (the schema of `frontier.json`) as one HTML file at `path` that opens offline.

    Raises `OutputError` where the data is not of the schema, or the file cannot be written.
    """
    report = completed(data)
    best, original = by_id(report, report["best"]), by_id(report, report["original"])
    assert original is not None  # `completed` checked it
    write_text(
        path,
        render(
            "shrink.html.j2",
            scripts=("frontier.js", "points.js"),
            report=report,
            words=wording,
            headline=headline(report),
            verdicts=verdicts(report, best or original),
            judged=best or original,
            best=best,
            original=original,
            points=[_shown(report, point) for point in ordered(report)],
            chart=chart_data(report),
            comparison=compared(best, original, report["metric"]) if best and best is not original else [],
            groups=drawn(grouped(matched(report["layers"]))),
            quantities=measured(report["layers"]),
            timeline=_timeline(report["timeline"]),
            provenance=_provenance(report["provenance"]),
        ),
    )


def ordered(report: Report) -> list[Point]:
    """Baselines as given, then candidates: the best, the rest of the frontier, the dominated; each from fast to slow."""

    def rank(point: Point) -> tuple[int, float]:
        if point["kind"] == "baseline":
            return 0, 0.0
        latency = point["latency_ms"]
        place = 1 if point["id"] == report["best"] else 2 if point["on_frontier"] else 3
        return place, float("inf") if latency is None else latency

    return sorted(report["points"], key=rank)


def chart_data(report: Report) -> dict[str, Any]:
    """What the chart's script draws: numbers, and the lines of text that it shows on hovering."""
    original = by_id(report, report["original"])
    assert original is not None
    budget, metric = report["budget"], report["metric"]
    return {
        "metric": metric,
        "share": wording.is_share(metric),
        "original": report["original"],
        "best": report["best"],
        "bestIs": "nearest" if report["feasible"] is False else "best",
        "limits": {
            "latency": budget["latency_ms"],
            "size": budget["size_mb"],
            "memory": budget["memory_mb"],
            "drop": budget["max_drop"],
        },
        "points": [
            _plotted(point, original, metric) for point in ordered(report) if point["same_as"] is None
        ],
    }


def _plotted(point: Point, original: Point, metric: str) -> dict[str, Any]:
    size, memory, at = point["size_bytes"], point["peak_memory_bytes"], original["validation_score"]
    drops = point["validation_drop_low"], point["validation_drop_high"]
    # On validation only the paired drop has an interval; it is drawn around the original's score.
    paired = [None if at is None or drop is None else at - drop for drop in drops]
    return {
        "id": point["id"],
        "label": point["label"],
        "kind": point["kind"],
        "frontier": point["on_frontier"],
        "latency": point["latency_ms"],
        "iqr": point["latency_iqr_ms"],
        "size": None if size is None else size / 1e6,
        "memory": None if memory is None else memory / 1e6,
        "test": [point["score"], point["score_low"], point["score_high"]],
        "validation": [point["validation_score"], paired[1], paired[0]],
        "lines": [[name, value] for name, value in figures(point, metric)[:6]],
        "recipe": _excerpt(point["recipe_text"]),
    }


def figures(point: Point, metric: str) -> list[tuple[str, str]]:
    """Every figure of a point as (name, text)."""
    lost = loss(point)
    runs = "" if point["runs"] is None else f", {point['runs']} runs"
    latency = wording.milliseconds(point["latency_ms"], point["latency_iqr_ms"])
    scored = wording.score(point["score"], metric, point["score_low"], point["score_high"])
    return [
        (f"{metric.capitalize()}, test", scored),
        (f"{metric.capitalize()}, validation", wording.score(point["validation_score"], metric)),
        (f"Loss, {lost.split}", wording.drop(lost.value, metric, lost.low, lost.high)),
        ("Latency", latency + (runs if point["latency_ms"] is not None else "")),
        ("Size on disk", wording.size(point["size_bytes"])),
        ("Peak memory", wording.size(point["peak_memory_bytes"])),
        ("Latency predicted", wording.milliseconds(point["predicted_latency_ms"])),
        ("Parameters", wording.amount(point["params"])),
        ("MACs", wording.amount(point["macs"])),
    ]


def _shown(report: Report, point: Point) -> dict[str, Any]:
    """A point for the table and the details: its texts, and its standing among the points."""
    return {
        **point,
        "is_best": point["id"] == report["best"],
        "is_original": point["id"] == report["original"],
        "about": BASELINES.get(point["id"]) if point["kind"] == "baseline" else None,
        "figures": figures(point, report["metric"]),
        "cells": _cells(point, report["metric"]),
        "checks": [
            (name.replace("_", " "), plain(value)) for name, value in flattened(point["verification"] or {})
        ],
    }


def _cells(point: Point, metric: str) -> list[tuple[str, float | None, str, str | None]]:
    """The table's cells: heading, the value to sort by, its text, and what stands beneath it."""
    lost, size, memory = loss(point), point["size_bytes"], point["peak_memory_bytes"]
    tested = point["score"] is not None
    scored = point["score"] if tested else point["validation_score"]
    if tested:
        under_score = _range(point["score_low"], point["score_high"], metric)
    else:
        under_score = None if scored is None else "on validation"
    iqr, verdict = point["latency_iqr_ms"], point["meets_budget"]
    judged = "no verdict" if verdict is None else "✓ met" if verdict else "✗ not met"
    return [
        (metric.capitalize(), scored, wording.score(scored, metric), under_score),
        ("Loss", lost.value, wording.drop(lost.value, metric), _range(lost.low, lost.high, metric)),
        (
            *("Latency", point["latency_ms"], wording.milliseconds(point["latency_ms"])),
            None if iqr is None else f"IQR {wording.significant(iqr, 2)}",
        ),
        ("Size", size, wording.size(size), None),
        ("Memory", memory, wording.size(memory), None),
        ("Budget", None if verdict is None else float(not verdict), judged, None),
    ]


def _range(low: float | None, high: float | None, metric: str) -> str | None:
    return (
        None
        if low is None or high is None
        else f"{wording.figure(low, metric)} to {wording.figure(high, metric)}"
    )


def compared(best: Point, original: Point, metric: str) -> list[dict[str, Any]]:
    """Best against original, one row for each cost; `share` is after / before, for the bars."""
    rows = (
        ("Latency", "latency_ms", wording.milliseconds, "faster", "slower"),
        ("Size on disk", "size_bytes", wording.size, "smaller", "larger"),
        ("Peak memory", "peak_memory_bytes", wording.size, "less", "more"),
        ("MACs", "macs", wording.amount, "fewer", "more"),
        ("Parameters", "params", wording.amount, "fewer", "more"),
    )
    table = []
    for name, key, text, less, more in rows:
        before, after = original[key], best[key]  # type: ignore[literal-required]
        known = bool(before) and after is not None
        table.append(
            {
                "name": name,
                "before": text(before),
                "after": text(after),
                "ratio": times(before, after, less, more) or wording.NOT_MEASURED,
                "before_share": before / max(before, after) if known else None,
                "after_share": after / max(before, after) if known else None,
            }
        )
    return table


def _timeline(phases: list[Phase]) -> list[dict[str, Any]]:
    """Each phase with its start and length as shares of the whole."""
    whole = sum(phase["seconds"] or 0 for phase in phases) or 1.0
    rows, start = [], 0.0
    for phase in phases:
        length = (phase["seconds"] or 0) / whole
        text = wording.duration(phase["seconds"])
        rows.append({"phase": phase["phase"], "text": text, "start": start, "share": length})
        start += length
    return rows


def _provenance(section: dict[str, Any]) -> list[tuple[str, str]]:
    """Provenance as (name, text), in the order given; durations in words, a mapping as one line."""
    names = {"seconds": "time taken", "time_limit": "time limit"}
    pairs = []
    for key, value in section.items():
        if isinstance(value, dict):
            text = ", ".join(f"{name} {plain(item)}" for name, item in flattened(value))
        elif key in names and isinstance(value, (int, float)):
            text = wording.duration(value)
        else:
            text = "none" if value is None and key == "time_limit" else plain(value)
        pairs.append((names.get(key, key.replace("_", " ")), text))
    return pairs


def plain(value: Any) -> str:
    """A value of any kind as text: figures to four digits, null as not measured."""
    if value is None:
        return wording.NOT_MEASURED
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def flattened(section: dict[str, Any], under: str = "") -> list[tuple[str, Any]]:
    """Nested mappings as one list of (dotted name, value); lists become text."""
    pairs: list[tuple[str, Any]] = []
    for key, value in section.items():
        name = f"{under}{key}"
        if isinstance(value, dict):
            pairs += flattened(value, f"{name} · ")
        else:
            pairs.append((name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value))
    return pairs


def _excerpt(recipe: str | None, lines: int = 7, width: int = 40) -> str | None:
    """The first lines of a recipe, for the hover."""
    if not recipe:
        return None
    every = recipe.strip().splitlines()
    kept = [line if len(line) <= width else line[: width - 1] + "…" for line in every[:lines]]
    return "\n".join(kept + ["…"] * (len(every) > lines))
