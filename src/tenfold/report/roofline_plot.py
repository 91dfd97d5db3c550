"""The roofline as a still picture (PNG, SVG or PDF) for a paper, without a browser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tenfold.cost.roofline import COMPUTE, MEMORY, OVERHEAD
from tenfold.errors import OutputError
from tenfold.files import written
from tenfold.report import wording
from tenfold.report.profile_view import Alike, View, alike
from tenfold.report.roofs import Roofs

BLUE, ORANGE, GREY, GREEN, INK = "#0b5cad", "#b34700", "#48525e", "#0a6b49", "#18212b"
Box = tuple[float, float, float, float]  # left, bottom, right, top, in points of the page
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
BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "alpha": 0.7, "linewidth": 0}
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
        [
            group
            for group in alike(view.layers)
            if group.layers[0].flops and (not roofs or group.layers[0].rate)
        ]
        for view in views
    ]
    if not any(points):
        raise OutputError(f"cannot draw {path.name}: no layer does any arithmetic")
    require_matplotlib()
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # No pyplot: it keeps global state, and would look for a screen.
    figure = Figure(figsize=(6.4, 4.0), dpi=200, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    _frame(axes, [group for groups in points for group in groups], roofs)
    _draw_points(axes, views, points, roofs)
    axes.legend(frameon=False, fontsize=8, loc="lower right", labelcolor=INK)
    figure.draw_without_rendering()  # from here on things are placed in points of the page
    taken: list[Box] = []
    if roofs:
        _draw_roofs(axes, roofs, taken)
    if len(views) == 1:
        _draw_names(axes, points[0], roofs, taken)
    # Without a date, and with a fixed salt for the names of its parts, the same data gives the same file.
    with written(path) as temporary, rc_context({"svg.hashsalt": "tenfold"}):
        figure.savefig(temporary, metadata={"Date": None} if path.suffix == ".svg" else None)


def _height(group: Alike, roofs: Roofs | None) -> float:
    layer = group.layers[0]
    rate = layer.rate if roofs else float(layer.flops)
    assert rate is not None  # points without a time are left out
    return rate


def _weight(group: Alike, roofs: Roofs | None) -> float:
    return sum((layer.ms or 0.0) if roofs else float(layer.flops) for layer in group.layers)


def _frame(axes: Any, points: Sequence[Alike], roofs: Roofs | None) -> None:
    """Axes, grid and limits."""
    xs = [group.layers[0].intensity for group in points]
    ys = [_height(group, roofs) for group in points]
    left, right, bottom, top = min(xs), max(xs), min(ys), max(ys)
    if roofs:
        left, right = min(left, roofs.ridge / 10), max(4 * right, 6 * roofs.ridge)
        top = max(top, *(rate for rate in roofs.peaks.values() if rate < 20 * roofs.peak))
    axes.set(xscale="log", yscale="log", xlim=(left / 1.6, right * 1.6), ylim=(bottom / 2.2, top * 2.2))
    axes.set_xlabel("arithmetic intensity, FLOP per byte", fontsize=9)
    axes.set_ylabel("rate, FLOP/s" if roofs else "work of a layer, FLOP", fontsize=9)
    if roofs:
        axes.set_title(_plain(roofs.device), loc="left", fontsize=9, color=INK)
    axes.tick_params(labelsize=8, colors=GREY, which="both")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter(lambda value, _: wording.prefixed(value))
    axes.grid(color="#e7eaee", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)


def _draw_roofs(axes: Any, roofs: Roofs, taken: list[Box]) -> None:
    """The roof that holds is thick; other data types and memory levels are thin, each named at its line."""
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    for level, rate in roofs.bandwidths.items():
        main = level == roofs.level
        start, end = max(left, bottom / rate), min(right, roofs.peak / rate)
        if start >= end:
            continue
        axes.plot([start, end], [start * rate, end * rate], **_line(main))
        text = f"{_plain(level)} {wording.prefixed(rate)}B/s"
        low, high = _place(axes, (start, start * rate)), _place(axes, (end, end * rate))
        length = math.hypot(high[0] - low[0], high[1] - low[1])
        if length < _width(text) + 20:
            continue  # no room along the line
        share = 0.55 if main else (_width(text) / 2 + 12) / length
        at = 10 ** (math.log10(start) + share * math.log10(end / start))
        angle = math.degrees(math.atan2(high[1] - low[1], high[0] - low[0]))
        along, across = math.cos(math.radians(angle)), math.sin(math.radians(angle))
        offset = (-4 * across, 4 * along)
        x, y = _place(axes, (at, at * rate))
        for step in range(9):  # the room that the slanting name takes
            far = (step / 8 - 0.5) * _width(text)
            middle = (x + far * along - 7 * across, y + far * across + 7 * along)
            taken.append((middle[0] - 4, middle[1] - 4, middle[0] + 4, middle[1] + 4))
        axes.annotate(
            text, (at, at * rate), xytext=offset, textcoords="offset points", rotation=angle, rotation_mode="anchor",
            ha="center", bbox=BEHIND, **_text(main),
        )  # fmt: skip
    for step in range(101):  # no name may lie on the roof that holds
        intensity = 10 ** (math.log10(left) + step / 100 * math.log10(right / left))
        x, y = _place(axes, (intensity, roofs.attainable(intensity)))
        taken.append((x - 2, y - 1, x + 2, y + 1))
    drawn: list[float] = []
    for rate in sorted(set(roofs.peaks.values()), key=lambda rate: (rate != roofs.peak, -rate)):
        main = rate == roofs.peak
        x, y = _place(axes, (right, rate))
        # Of peaks that lie together one has a line: the one that holds before the highest.
        if rate > top or rate / roofs.bandwidth >= right or any(abs(y - other) < 12 for other in drawn):
            continue
        drawn.append(y)
        axes.plot([rate / roofs.bandwidth, right], [rate, rate], **_line(main))
        names = sorted(
            (name for name in roofs.peaks if roofs.peaks[name] == rate), key=lambda n: n != roofs.dtype
        )
        text = f"{_plain(', '.join(names))} {wording.prefixed(rate)}FLOP/s"
        # The peak that holds has its name below its line, the others above theirs.
        box = (x - _width(text), y - 12, x, y - 2) if main else (x - _width(text), y + 2, x, y + 12)
        if _free(box, taken):
            taken.append(box)
            axes.annotate(
                text, (right, rate), xytext=(-2, -3 if main else 3), textcoords="offset points", ha="right",
                va="top" if main else "bottom", **_text(main),
            )  # fmt: skip


def _place(axes: Any, spot: tuple[float, float]) -> tuple[float, float]:
    """A spot of the data in points of the page."""
    x, y = axes.transData.transform(spot) * 72 / axes.figure.dpi
    return float(x), float(y)


def _width(text: str) -> float:
    """About how many points a name is wide."""
    return 4.3 * len(text)


def _free(box: Box, taken: Sequence[Box]) -> bool:
    return not any(box[0] < b[2] and b[0] < box[2] and box[1] < b[3] and b[1] < box[3] for b in taken)


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
                s=[_area(group, whole, roofs) for group in members],
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
    table = BOUNDS if any(group.layers[0].bound in BOUNDS for group in groups) else KINDS
    found: dict[str, list[Alike]] = {key: [] for key in table}
    for group in groups:
        layer = group.layers[0]
        key = layer.bound if table is BOUNDS else layer.kind if layer.kind in KINDS else "other"
        if key in found:  # what runs within another's kernel has no mark
            found[key].append(group)
    return [(table[key], members) for key, members in found.items() if members]


def _area(group: Alike, whole: float, roofs: Roofs | None) -> float:
    """Of a mark, in square points: the share of the whole within what can be seen."""
    return max(14.0, min(260.0, 1100 * _weight(group, roofs) / whole))


def _draw_names(axes: Any, groups: Sequence[Alike], roofs: Roofs | None, taken: list[Box]) -> None:
    """The heaviest points by name, each beside its mark or below it, wherever it hides nothing; else none."""
    whole = sum(_weight(group, roofs) for group in groups)
    (left, right), (bottom, top) = (axes.transAxes.transform([(0, 0), (1, 1)]) * 72 / axes.figure.dpi).T
    marks = []
    for group in groups:
        (x, y), r = (
            _place(axes, (group.layers[0].intensity, _height(group, roofs))),
            _area(group, whole, roofs) ** 0.5 / 2,
        )
        marks.append((x - r, y - r, x + r, y + r))
    for group, mark in sorted(zip(groups, marks, strict=True), key=lambda pair: -_weight(pair[0], roofs))[
        :NAMED
    ]:
        text = group.short + (f" ×{len(group.layers)}" if len(group.layers) > 1 else "")
        (x, y), r = ((mark[0] + mark[2]) / 2, (mark[1] + mark[3]) / 2), (mark[2] - mark[0]) / 2 + 3
        w, h = _width(text), 9.0
        corners = (
            (r, -h / 2), (-w - r, -h / 2), (-w / 2, -h - r), (r - 3, -h - r), (-w - r, -h - r),
            (-w / 2, r), (-w / 2, -2 * h - r), (r, -2 * h - r), (-w / 2, h + r),
        )  # fmt: skip
        for dx, dy in corners:
            box = (x + dx, y + dy, x + dx + w, y + dy + h)
            inside = left <= box[0] and box[2] <= right and bottom <= box[1] and box[3] <= top
            if not inside or not _free(box, [*taken, *marks]):
                continue
            taken.append(box)
            axes.annotate(
                _plain(text), (group.layers[0].intensity, _height(group, roofs)), xytext=(dx + w / 2, dy + h / 2),
                textcoords="offset points", ha="center", va="center", zorder=4, **_text(True),
            )  # fmt: skip
            break


def _plain(text: str) -> str:
    """matplotlib reads mathematics between dollars."""
    return text.replace("$", r"\$")
