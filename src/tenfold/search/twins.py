"""Points that are the same file, byte for byte, as a recipe makes it that says what a baseline does: one is measured for both."""

from __future__ import annotations

import filecmp
from collections.abc import Callable, Sequence

from tenfold.deploy import Artifact
from tenfold.search.frontier import ORIGINAL
from tenfold.search.point import Point

MEASURED = (
    *("score", "score_low", "score_high", "drop", "drop_low", "drop_high"),
    *("validation_score", "validation_drop", "validation_drop_low", "validation_drop_high"),
    *("size_bytes", "latency_ms", "latency_iqr_ms", "runs", "peak_memory_bytes", "seconds_per_example"),
)  # of the file, whoever made it


def find_twins(points: Sequence[Point], artifact: Callable[[Point], Artifact]) -> list[Point]:
    """Set `same_as` of each point whose files are an earlier one's; returns the points that stand for themselves.

    Baselines count as earlier than what is compared with them, also where a run that goes on made one later.
    """
    standing: list[tuple[Point, Artifact]] = []
    for point in sorted(points, key=lambda point: (point.id != ORIGINAL, point.kind != "baseline")):
        files = artifact(point)
        point.same_as = next((other.id for other, its in standing if same_files(its, files)), None)
        if point.same_as is None:
            standing.append((point, files))
    return [point for point in points if point.same_as is None]


def same_files(one: Artifact, other: Artifact) -> bool:
    """Whether one runtime gets the same bytes for both; names within a file, and its metadata, count."""
    return (
        one.runtime == other.runtime
        and len(one.paths) == len(other.paths)
        and all(filecmp.cmp(a, b, shallow=False) for a, b in zip(one.paths, other.paths, strict=True))
    )


def share_figures(points: Sequence[Point]) -> None:
    """Give what was measured of a file to all that are it: that of the point which stands, and what that lacks."""
    by_id = {point.id: point for point in points}
    twins = [(by_id[point.same_as], point) for point in points if point.same_as is not None]
    for first, twin in twins:
        for name in MEASURED:
            if getattr(first, name) is None:
                setattr(first, name, getattr(twin, name))
    for first, twin in twins:
        for name in MEASURED:
            setattr(twin, name, getattr(first, name))
