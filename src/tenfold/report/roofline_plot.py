"""The roofline as a still picture (PNG, SVG or PDF) for a paper, without a browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenfold.errors import OutputError
from tenfold.files import written
from tenfold.report import wording
from tenfold.report.profile_view import Alike, View, alike
from tenfold.report.roofs import COMPUTE, MEMORY, OVERHEAD, Roofs

BLUE, ORANGE, GREY, GREEN, INK = "#0b5cad", "#b34700", "#48525e", "#0a6b49", "#18212b"
Mark = tuple[str, str, str]  # colour, marker, what it stands for
BOUNDS: dict[str, Mark] = {
    COMPUTE: (BLUE, "o", "bound by compute"),
    MEMORY: (ORANGE, "D", "bound by memory"),
    OVERHEAD: (GREY, "s", "bound by overhead"),
}
KINDS: dict[str, Mark] = {
    "dense": (BLUE, "o", "convolution, matrix product"),
    "depthwise": (ORANGE, "D", "depthwise convolution"),
    "attention": (GREEN, "^", "attention"),
    "other": (GREY, "s", "everything else"),
}
NAMED = 5  # of the heaviest points


def require_matplotlib() -> None:
    """Raise `OutputError`, naming the extra, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise OutputError("a still picture needs matplotlib: pip install 'tenfold[plot]'") from error


def roofline_plot(views: Sequence[View], path: Path | str, roofs: Roofs | None = None) -> None:
    """Draw the layers of one network or two under `roofs` to `path`, whose ending says the format.

    Without roofs the layers stand at their work instead of their rate. Raises `OutputError` where matplotlib is
    missing, no layer does any arithmetic, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise OutputError(f"cannot draw {path.name}: the ending must be .png, .svg or .pdf")
    points = [
        [group for group in alike(view.layers) if group.layers[0].flops and (not roofs or group.layers[0].ms)]
        for view in views
    ]
    if not any(points):
        raise OutputError(f"cannot draw {path.name}: no layer does any arithmetic")
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: it keeps global state, and would look for a screen.
    figure = Figure(figsize=(6.4, 4.0), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    axes.set_yscale("log")
    _limits(axes, [group for groups in points for group in groups], roofs)
    if roofs:
        _draw_roofs(axes, roofs)
    _draw_points(axes, views, points, roofs)
    if len(views) == 1:
        figure.draw_without_rendering()  # names are placed in pixels
        _draw_names(axes, points[0], roofs)
    axes.set_xlabel("arithmetic intensity, FLOP per byte")
    axes.set_ylabel(f"rate on {_plain(roofs.device)}, FLOP/s" if roofs else "work of a layer, FLOP")
    axes.grid(color="#e7eaee", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(lambda value, _: wording.prefixed(value))
    axes.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=INK)
    with written(path) as temporary:
        # Without a date the same data gives the same file.
        figure.savefig(temporary, metadata={"Date": None} if path.suffix == ".svg" else None)


def _height(group: Alike, roofs: Roofs | None) -> float:
    layer = group.layers[0]
    rate = layer.rate if roofs else float(layer.flops)
    assert rate is not None  # points without a time are left out
    return rate


def _weight(group: Alike, roofs: Roofs | None) -> float:
    return sum((layer.ms or 0.0) if roofs else float(layer.flops) for layer in group.layers)


def _limits(axes: Any, points: Sequence[Alike], roofs: Roofs | None) -> None:
    xs = [group.layers[0].intensity for group in points]
    ys = [_height(group, roofs) for group in points]
    left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
    if roofs:
        left, right = min(left, roofs.ridge / 10), max(right, 6 * roofs.ridge)
        top = max(top, *(rate for rate in roofs.peaks.values() if rate < 20 * roofs.peak))
    axes.set_xlim(left / 1.6, right * 1.6)
    axes.set_ylim(bottom / 2.2, top * 2)


def _draw_roofs(axes: Any, roofs: Roofs) -> None:
    """The roof that holds is thick; other data types and memory levels are thin, each named at its line."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for level, rate in roofs.bandwidths.items():
        main = level == roofs.level
        start, end = max(left, bottom / rate), min(right, roofs.peak / rate)
        if start >= end:
            continue
        axes.plot([start, end], [start * rate, end * rate], **_line(main))
        share = 0.55 if main else 0.12
        at = 10 ** (math.log10(start) + share * math.log10(end / start))
        axes.annotate(
            f"{_plain(level)} {wording.prefixed(rate)}B/s",
            (at, at * rate),
            xytext=(-3, 3),
            textcoords="offset points",
            rotation=45,  # of a line of slope 1 in the data, which the transform turns into that of the picture
            rotation_mode="anchor",
            transform_rotates_text=True,
            ha="center",
            **_text(main),
        )
    for dtype, rate in roofs.peaks.items():
        main = dtype == roofs.dtype
        if rate > top:
            continue
        axes.plot([rate / roofs.bandwidth, right], [rate, rate], **_line(main))
        axes.annotate(
            f"{_plain(dtype)} {wording.prefixed(rate)}FLOP/s",
            (right, rate),
            xytext=(-2, 5),
            textcoords="offset points",
            ha="right",
            **_text(main),
        )


def _line(main: bool) -> dict[str, Any]:
    return {"color": INK, "linewidth": 1.6, "zorder": 1.5} if main else {"color": GREY, "linewidth": 0.8, "linestyle": ":", "zorder": 1.4}  # fmt: skip


def _text(main: bool) -> dict[str, Any]:
    return {"fontsize": 7.5, "color": INK if main else GREY}


def _draw_points(
    axes: Any, views: Sequence[View], points: Sequence[Sequence[Alike]], roofs: Roofs | None
) -> None:
    for number, (view, groups) in enumerate(zip(views, points, strict=True)):
        whole = sum(_weight(group, roofs) for group in groups) or 1.0
        for (colour, marker, text), members in _marked(groups, number, view.name, len(views) > 1):
            axes.scatter(
                [group.layers[0].intensity for group in members],
                [_height(group, roofs) for group in members],
                s=[max(14, min(260, 1100 * _weight(group, roofs) / whole)) for group in members],
                c=colour,
                marker=marker,
                alpha=0.7,
                linewidths=0.5,
                edgecolors="white",
                zorder=3,
            )
            axes.scatter([], [], s=30, c=colour, marker=marker, label=_plain(text))  # a legend of one size


def _marked(groups: Sequence[Alike], number: int, name: str, several: bool) -> list[tuple[Mark, list[Alike]]]:
    """Points by what they are drawn as: the network of two; what binds; or the kind of work."""
    if several:
        return [(((BLUE, "o", name), (ORANGE, "D", name))[number], list(groups))]
    table = BOUNDS if any(group.layers[0].bound for group in groups) else KINDS
    found: dict[str, list[Alike]] = {key: [] for key in table}
    for group in groups:
        layer = group.layers[0]
        key = layer.bound or (layer.kind if layer.kind in KINDS else "other")
        found[key].append(group)
    return [(table[key], members) for key, members in found.items() if members]


def _draw_names(axes: Any, groups: Sequence[Alike], roofs: Roofs | None) -> None:
    """The heaviest points by name, each below its mark or beside it, wherever it hides no other."""
    taken: list[tuple[float, float, float, float]] = []
    for group in sorted(groups, key=lambda g: _weight(g, roofs), reverse=True)[:NAMED]:
        text = group.short + (f" ×{len(group.layers)}" if len(group.layers) > 1 else "")
        spot = group.layers[0].intensity, _height(group, roofs)
        x, y = axes.transData.transform(spot) * 72 / axes.figure.dpi  # points
        width, height = 4.1 * len(text), 9.0
        for dx, dy in ((0, -16), (0, -27), (width / 2 + 10, -3), (-width / 2 - 10, -3), (0, -38), (0, 10)):
            box = (x + dx - width / 2, y + dy, x + dx + width / 2, y + dy + height)
            if any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken):
                continue
            taken.append(box)
            axes.annotate(
                _plain(text), spot, xytext=(dx, dy), textcoords="offset points", ha="center", va="bottom",
                fontsize=7.5, color=INK, zorder=4,
                bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0},
            )  # fmt: skip
            break


def _plain(text: str) -> str:
    """matplotlib reads mathematics between dollars."""
    return text.replace("$", r"\$")
