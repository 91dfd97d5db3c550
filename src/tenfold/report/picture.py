"""The frontier as a still picture (PNG or SVG) for a README or a paper, without a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tenfold.errors import OutputError
from tenfold.files import written
from tenfold.report import wording
from tenfold.report.schema import Point, Report, completed
from tenfold.report.verdict import by_id

BLUE, ORANGE, GREY, RED = "#0b5cad", "#b34700", "#48525e", "#b3261e"


def static_plot(data: dict[str, Any], path: Path | str) -> None:
    """Draw score against latency to `path`, whose ending (.png, .svg, .pdf) says the format.

    Raises `OutputError` where matplotlib is missing, the data is not of the schema or has no point to draw, or the
    file cannot be written.
    """
    report, path = completed(data), Path(path)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise OutputError(f"cannot draw {path.name}: the ending must be .png, .svg or .pdf")
    split = _split(report)
    points = [
        p
        for p in report["points"]
        if p["latency_ms"] is not None and p[_score(split)] is not None and p["same_as"] is None  # type: ignore[literal-required]
    ]
    if not points:
        raise OutputError("cannot draw the frontier: no point has both a latency and a score")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError("a still picture needs matplotlib: pip install 'tenfold[plot]'") from error

    # No pyplot: it keeps global state, and would look for a screen.
    figure = Figure(figsize=(7.2, 4.2), dpi=160, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _draw(axes, report, points, split)
    with written(path) as temporary:
        # Without a date the same data gives the same file.
        figure.savefig(temporary, metadata={"Date": None} if path.suffix == ".svg" else None)


def _split(report: Report) -> str:
    """The set that shows more points; test where both show as many."""
    count = {s: sum(p[_score(s)] is not None for p in report["points"]) for s in ("test", "validation")}  # type: ignore[literal-required]
    return "validation" if count["validation"] > count["test"] else "test"


def _score(split: str) -> str:
    return "score" if split == "test" else "validation_score"


def _draw(axes: Any, report: Report, points: list[Point], split: str) -> None:
    metric, best = report["metric"], report["best"]
    unit = 100 if wording.is_share(metric) else 1
    kinds = (
        ("dominated", lambda p: p["kind"] == "candidate" and not p["on_frontier"], BLUE, "o", 0.35),
        ("candidate", lambda p: p["kind"] == "candidate" and p["on_frontier"], BLUE, "o", 1.0),
        ("baseline", lambda p: p["kind"] == "baseline", GREY, "D", 1.0),
    )
    for name, belongs, colour, marker, alpha in kinds:
        chosen = [p for p in points if belongs(p) and p["id"] != best]
        _errorbars(
            axes, report, chosen, split, {"color": colour, "marker": marker, "alpha": alpha, "label": name}
        )
    named = "nearest" if report["feasible"] is False else "best"
    chosen = [p for p in points if p["id"] == best]
    _errorbars(
        axes, report, chosen, split, {"color": ORANGE, "marker": "*", "markersize": 15, "label": named}
    )
    named_points = [p for p in points if p["kind"] == "baseline" or p["id"] == best]
    for place, point in enumerate(sorted(named_points, key=lambda p: p["latency_ms"] or 0)):
        # Beyond the ends of the bars, by turns above and below, so that neighbours do not meet.
        above = place % 2 == 0
        below_by, above_by = _spread(report, point, split)
        end = point[_score(split)] + (above_by if above else -below_by)  # type: ignore[literal-required]
        axes.annotate(
            point["id"].replace("$", r"\$"),  # matplotlib reads mathematics between dollars
            (point["latency_ms"], unit * end),
            xytext=(0, 3 if above else -3),
            textcoords="offset points",
            ha="center",
            va="bottom" if above else "top",
            fontsize=8,
            color=ORANGE if point["id"] == best else GREY,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0},
        )
    _limits(axes, report, split, unit)
    latencies = [p["latency_ms"] for p in points if p["latency_ms"] is not None]
    if min(latencies) > 0 and max(latencies) > 6 * min(latencies):
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("latency, ms (median; bars: quartile distance)")
    axes.set_ylabel(f"{metric}{', %' if unit == 100 else ''} ({split} set)".replace("$", r"\$"))
    axes.grid(color="#e7eaee", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.margins(x=0.12, y=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8, loc="lower right")


def _errorbars(axes: Any, report: Report, points: list[Point], split: str, style: dict[str, Any]) -> None:
    if not points:
        return
    unit = 100 if wording.is_share(report["metric"]) else 1
    spread = [_spread(report, p, split) for p in points]
    axes.errorbar(
        [p["latency_ms"] for p in points],
        [unit * p[_score(split)] for p in points],  # type: ignore[literal-required]
        xerr=[(p["latency_iqr_ms"] or 0) / 2 for p in points],
        yerr=[[unit * low for low, _ in spread], [unit * high for _, high in spread]],
        linestyle="none",
        elinewidth=0.8,
        capsize=2,
        **{"markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.5, **style},
    )


def _spread(report: Report, point: Point, split: str) -> tuple[float, float]:
    """The interval below and above the score; on validation that of the drop. Not measured: no bar."""
    if split == "test":
        middle, low, high = point["score"], point["score_low"], point["score_high"]
    else:
        middle = point["validation_drop"]
        low, high = point["validation_drop_low"], point["validation_drop_high"]
        low, high = (None if high is None else -high), (None if low is None else -low)
        middle = None if middle is None else -middle
    if middle is None or low is None or high is None:
        return 0.0, 0.0
    return max(0.0, middle - low), max(0.0, high - middle)


def _limits(axes: Any, report: Report, split: str, unit: int) -> None:
    original = by_id(report, report["original"])
    top = original[_score(split)] if original else None  # type: ignore[literal-required]
    latency, loss = report["budget"]["latency_ms"], report["budget"]["max_drop"]
    style = {"color": RED, "linewidth": 1, "linestyle": "--", "zorder": 0}
    label = "budget"
    if latency is not None:
        axes.axvline(latency, label=label, **style)
        label = ""
    if loss is not None and top is not None:
        axes.axhline(unit * (top - loss), label=label, **style)
