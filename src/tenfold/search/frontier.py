"""The frontier: every point, which of them nothing else beats, and the best one for the budget."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from tenfold.deploy import Artifact, Precision
from tenfold.search.budget import Budget
from tenfold.search.point import Point

ORIGINAL = "onnx-fp32"
PLAIN_INT8 = "onnx-int8-static"
EAGER = "eager"
BASELINES = {  # point -> label and precision
    ORIGINAL: ("ONNX, fp32", "fp32"),
    PLAIN_INT8: ("ONNX, INT8 static", "int8-static"),
    "onnx-int8-dynamic": ("ONNX, INT8 dynamic", "int8-dynamic"),
    EAGER: ("PyTorch eager, fp32", EAGER),
}
SCHEMA = 1
UNITS = {"latency_ms": "ms", "size_mb": "MB", "memory_mb": "MB", "max_drop": "points"}
# Two medians closer than this share of each other are a tie: repeated runs of one file differ by as much.
TIE = 0.03
TIE_DROP = 0.002  # of the metric: a baseline may lose so much more and still make a candidate needless


def dominates(a: Point, b: Point) -> bool:
    """Whether `a` is at least as good as `b` in latency, size and validation drop, and better in one."""
    keys = ("latency_ms", "size_bytes", "validation_drop")
    pairs = [(getattr(a, key), getattr(b, key)) for key in keys]
    if any(x is None for x, _ in pairs):
        return False
    if any(y is None for _, y in pairs):
        return True
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)


def mark(points: Sequence[Point], budget: Budget) -> None:
    """Set `on_frontier`, `meets_budget` and the note of useless candidates, from what was measured.

    The untouched network stays on the frontier whatever a lucky candidate scores; without a budget there is no verdict.
    A point that is the same file as an earlier one is no point of its own.
    """
    standing = [point for point in points if point.same_as is None]
    baselines = [point for point in standing if point.kind == "baseline"]
    for point in points:
        point.on_frontier = (
            point.latency_ms is not None
            and point.same_as is None
            and (
                point.id == ORIGINAL
                or not any(dominates(other, point) for other in standing if other is not point)
            )
        )
        point.meets_budget = None if budget.empty else budget.met_by(point)
        point.note = None
        if point.same_as is not None:
            point.note = f"the same file as {point.same_as}"
        elif point.kind == "candidate" and is_useless(point, baselines):
            point.note = "neither smaller nor faster than a baseline"


def is_useless(point: Point, baselines: Sequence[Point]) -> bool:
    """Whether some baseline is as small, as fast and as good, so that the candidate buys nothing."""
    return any(
        base.validation_drop is not None
        and (
            point.validation_drop is None
            or base.validation_drop <= max(point.validation_drop, 0.0) + TIE_DROP
        )
        and point.size_bytes is not None
        and base.size_bytes is not None
        and point.latency_ms is not None
        and base.latency_ms is not None
        and base.size_bytes <= point.size_bytes
        and base.latency_ms <= point.latency_ms
        for base in baselines
    )


def choose(points: Sequence[Point], budget: Budget, minimize: str) -> Point | None:
    """The best point by what validation says: it meets every limit and has the least of `minimize`.

    Without a `max_drop` the drop must stay under the default tolerance. None if no point meets the limits.
    """
    standing = [point for point in points if point.note is None and point.same_as is None]
    fitting = [point for point in standing if fits(by_validation(point), budget)]
    first, second = ("latency_ms", "size_bytes") if minimize == "latency" else ("size_bytes", "latency_ms")
    measured = [point for point in fitting if getattr(point, first) is not None]
    if not measured:
        return None
    least = min(getattr(point, first) for point in measured)
    tied = [point for point in measured if getattr(point, first) <= least * (1 + TIE)]
    return min(tied, key=lambda point: (getattr(point, second) or float("inf"), point.id))


def fits(point: Point, budget: Budget) -> bool:
    """Whether the limits are met; where none was set on the drop, its estimate stays under the default tolerance."""
    if not budget.met_by(point):
        return False
    drop = point.validation_drop
    return budget.max_drop is not None or (drop is not None and drop <= budget.tolerated_drop)


def nearest(points: Sequence[Point], budget: Budget) -> tuple[Point, str]:
    """The point that comes nearest to an infeasible budget, and the limit that binds it most."""
    limits = Budget(budget.latency_ms, budget.size_mb, budget.memory_mb, budget.tolerated_drop)

    def worst(point: Point) -> tuple[float, str]:
        return max((share, name) for name, share in limits.excesses(by_validation(point)).items())

    standing = [point for point in points if point.same_as is None]
    point = min(standing, key=lambda point: (worst(point)[0], point.latency_ms or float("inf"), point.id))
    return point, worst(point)[1]


def by_validation(point: Point) -> Point:
    """The point as the search sees it: without what the test set said."""
    data = point.to_json()
    return Point.from_json({**data, "score": None, "drop": None, "drop_low": None, "drop_high": None})


def value_of(point: Point, limit: str) -> float | None:
    """What the point has of a limit, in the limit's unit."""
    if limit == "latency_ms":
        return point.latency_ms
    if limit == "max_drop":
        return point.drop_high if point.drop_high is not None else point.validation_drop_high
    value = point.size_bytes if limit == "size_mb" else point.peak_memory_bytes
    return None if value is None else value / 1e6


@dataclass
class Frontier:
    """What `shrink` hands back. `best` is the marked point's artefact; `points` holds them all."""

    points: list[Point]
    best_id: str | None
    feasible: bool
    binding: str | None
    message: str
    budget: Budget
    minimize: str
    folder: Path
    network: nn.Module
    sections: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, point_id: str) -> Point:
        """The point of that id."""
        for point in self.points:
            if point.id == point_id:
                return point
        raise KeyError(f"no point {point_id!r}: there are {', '.join(p.id for p in self.points)}")

    @property
    def best(self) -> Best | None:
        """The best point, or the nearest one where no point meets the budget."""
        return None if self.best_id is None else Best(self[self.best_id], self.artifact(self.best_id))

    def artifact(self, point_id: str) -> Artifact:
        """The artefact of a point: `.run(x)` answers through the runtime that serves it."""
        return opened(self.folder, self[point_id], self.network)

    @classmethod
    def from_json(cls, data: dict[str, Any], folder: Path, network: nn.Module) -> Frontier:
        """The frontier that frontier.json in `folder` tells of; `network` is the original."""
        own = ("points", "best", "feasible", "binding", "message", "budget", "minimize", "schema", "original")
        return cls(
            points=[Point.from_json(point) for point in data["points"]],
            best_id=data["best"],
            feasible=data["feasible"],
            binding=data["binding"],
            message=data["message"],
            budget=Budget(**data["budget"]),
            minimize=data["minimize"],
            folder=folder,
            network=network,
            sections={key: value for key, value in data.items() if key not in own},
        )

    def to_json(self) -> dict[str, Any]:
        """The content of frontier.json."""
        return {
            "schema": SCHEMA,
            "best": self.best_id,
            "original": ORIGINAL,
            "feasible": self.feasible,
            "binding": self.binding,
            "message": self.message,
            "budget": self.budget.to_json(),
            "minimize": self.minimize,
            "points": [point.to_json() for point in self.points],
            **self.sections,
        }


@dataclass(frozen=True)
class Best:
    """The marked point, and its artefact."""

    point: Point
    artifact: Artifact


def opened(folder: Path, point: Point, network: nn.Module) -> Artifact:
    """The artefact of a point in a run's folder; the eager one runs `network`, the original, itself."""
    files = folder / str(point.artifact)
    if point.precision == EAGER:
        return Artifact("torch", (files / "weights.safetensors",), Precision.FLOAT32, network)
    return Artifact("onnxruntime", (files / "model.onnx",), computed_in(point.precision))


def computed_in(form: str) -> Precision:
    """What the layers of a form compute in: `int8-equalized` and `packed-int8` in static INT8, other weights in float."""
    if form.startswith(Precision.INT8_DYNAMIC.value):
        return Precision.INT8_DYNAMIC
    return Precision.INT8_STATIC if form.startswith(("int8", "packed")) else Precision.FLOAT32
