"""The course of training runs as a still picture: validation accuracy by passes over the data, and by seconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tenfold.errors import OutputError
from tenfold.files import written

COLOURS = ("#0b5cad", "#b34700", "#2e7d32", "#6a1b9a", "#48525e", "#b3261e", "#00838f", "#795548")
DEPTH = 30.0  # points of accuracy below the best that are shown
DASHES = ("-", "--", ":")  # the colours again, once all are used


def learning_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: Path | str) -> None:
    """Draw each run's curve (points with `epoch`, `seconds` and `accuracy`) to `path`: .png, .svg or .pdf.

    Raises `OutputError` where matplotlib is missing, there is nothing to draw, or the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".png", ".svg", ".pdf"):
        raise OutputError(f"cannot draw {path.name}: the ending must be .png, .svg or .pdf")
    if not any(runs.values()):
        raise OutputError("cannot draw the curves: no run has a point")
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OutputError("a picture of the curve needs matplotlib: pip install 'tenfold[plot]'") from error

    figure = Figure(figsize=(9.6, 4.0), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, key, label in ((left, "epoch", "epochs"), (right, "seconds", "seconds")):
        for index, (name, points) in enumerate(runs.items()):
            axes.plot(
                [point[key] for point in points],
                [100 * point["accuracy"] for point in points],
                color=COLOURS[index % len(COLOURS)],
                linestyle=DASHES[index // len(COLOURS) % len(DASHES)],
                linewidth=1.4,
                marker="o" if len(points) < 8 else None,
                markersize=3,
                label=name.replace("$", r"\$"),  # matplotlib reads mathematics between dollars
            )
        axes.set_xlabel(label)
        axes.set_xlim(left=0)
        axes.grid(color="#e7eaee", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylabel("accuracy, % (validation set)")
    reached = [100 * point["accuracy"] for points in runs.values() for point in points]
    left.set_ylim(
        bottom=max(min(reached), max(reached) - DEPTH) - 1
    )  # the first steps are of little interest
    columns = 1 + len(runs) // len(COLOURS)
    right.legend(frameon=False, fontsize=8 if columns == 1 else 7, loc="lower right", ncols=columns)
    with written(path) as temporary:
        # Without a date the same data gives the same file.
        figure.savefig(temporary, metadata={"Date": None} if path.suffix == ".svg" else None)
