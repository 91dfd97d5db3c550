"""The data that a report is drawn from: the public schema of `OUT/frontier.json` (version 1).

Everything here is plain JSON. Units are in the names: `_ms` milliseconds, `_bytes` bytes, `_mb` 10^6 bytes,
`seconds` seconds; `score` and `drop` are in the metric's own unit (an accuracy is a share in [0, 1]), a higher
score is better, and `drop` is the original's score less the point's, so that a positive drop is a loss.
`_low` and `_high` bound a 95% interval; the interval of a drop is paired on the same examples.

Any number may be null or absent: it was not measured. A reader shows it as such, never as 0 and never as good.
`frontier.json` must hold `schema`, `points`, `best` and `original`; every other section may be absent.
"""

from __future__ import annotations

import math
from typing import Any, Literal, TypedDict

from tenfold.errors import OutputError

SCHEMA = 1


class Point(TypedDict):
    """One network that was measured, or tried."""

    id: str  # baselines: 'eager', 'onnx-fp32', 'onnx-int8-static', 'onnx-int8-dynamic', as time allows
    kind: Literal["baseline", "candidate"]
    label: str  # a line of text that tells the point apart
    recipe: str | None  # path of the recipe file, relative to OUT
    recipe_text: str | None  # that file's YAML
    artifact: str | None  # path of what the runtime loads, relative to OUT
    score: float | None  # on the test set, where scored
    score_low: float | None
    score_high: float | None
    drop: float | None  # on the test set, where scored
    drop_low: float | None
    drop_high: float | None
    validation_score: float | None
    validation_drop: float | None
    validation_drop_low: float | None
    validation_drop_high: float | None
    size_bytes: int | None  # of every file that the runtime needs
    latency_ms: float | None  # median
    latency_iqr_ms: float | None  # the distance between the quartiles
    predicted_latency_ms: float | None
    peak_memory_bytes: int | None  # peak resident size of a fresh process that runs the artefact
    params: int | None
    macs: int | None
    runs: int | None  # timed runs behind the median
    meets_budget: bool | None  # null: there is no budget, or it was not judged
    on_frontier: bool
    note: str | None  # e.g. "neither smaller nor faster than a baseline"
    same_as: str | None  # id of an earlier point that is the same file, whose figures these are
    verification: dict[str, Any] | None  # how the artefact was held against PyTorch


class Layer(TypedDict):
    """The cost of one layer at batch 1."""

    name: str
    op: str | None
    macs: int | None
    params: int | None
    ms: float | None


class Layers(TypedDict):
    """The layers of the original and of the best network, in order of execution."""

    before: list[Layer]
    after: list[Layer]


class Budget(TypedDict):
    """What was asked; null is no limit."""

    latency_ms: float | None
    size_mb: float | None
    memory_mb: float | None
    max_drop: float | None


class Phase(TypedDict):
    """One stretch of the run; phases follow one another."""

    phase: str
    seconds: float | None


class Report(TypedDict):
    """The whole of `frontier.json`, with the sections that only the report draws."""

    schema: int
    best: str | None  # id of the recommended point; if `feasible` is false, of the nearest
    original: str  # id of the point that ratios are taken against
    feasible: bool | None  # null: no budget
    binding: str | None  # the key of `budget` that cannot be met
    message: str | None
    budget: Budget
    minimize: str | None
    metric: str
    points: list[Point]
    layers: Layers
    timeline: list[Phase]
    provenance: dict[str, Any]


_LIMITS = tuple(Budget.__annotations__)
_LAYER_NUMBERS = ("macs", "params", "ms")
_POINT_NUMBERS = (
    *("score", "score_low", "score_high", "drop", "drop_low", "drop_high"),
    *("validation_score", "validation_drop", "validation_drop_low", "validation_drop_high"),
    *("size_bytes", "latency_ms", "latency_iqr_ms", "predicted_latency_ms", "peak_memory_bytes"),
    *("params", "macs", "runs"),
)
_POINT_TEXTS = ("recipe", "recipe_text", "artifact", "note", "same_as")


def completed(data: dict[str, Any]) -> Report:
    """`data` with every key of the schema present, what is absent or not finite being null.

    Raises `OutputError`, naming the place, where `data` is not of this schema.
    """
    if not isinstance(data, dict):
        raise OutputError(f"a report is drawn from a dict, not from {type(data).__name__}")
    if data.get("schema") != SCHEMA:
        raise OutputError(
            f"the frontier is of schema {data.get('schema')!r}; this version reads schema {SCHEMA}"
        )
    points = [_point(row, index) for index, row in enumerate(_rows(data, "points"))]
    if not points:
        raise OutputError("the frontier has no points: there is nothing to report")
    ids = [point["id"] for point in points]
    if len(set(ids)) < len(ids):
        twice = next(name for name in ids if ids.count(name) > 1)
        raise OutputError(f"the frontier has two points with the id {twice!r}; ids must differ")
    for role in ("best", "original"):
        if data.get(role) is not None and data[role] not in ids:
            raise OutputError(f"the frontier's {role} is {data[role]!r}, which is not the id of any point")
    budget = _section(data, "budget")
    layers = _section(data, "layers")
    return Report(
        schema=SCHEMA,
        best=data.get("best"),
        original=data.get("original") or ids[0],
        feasible=data.get("feasible"),
        binding=data.get("binding"),
        message=data.get("message"),
        budget=Budget(**{key: _number(budget, key, "budget") for key in _LIMITS}),  # type: ignore[typeddict-item]
        minimize=data.get("minimize"),
        metric=str(data.get("metric") or "score"),
        points=points,
        layers=Layers(
            before=[_layer(row, i, "before") for i, row in enumerate(_rows(layers, "before"))],
            after=[_layer(row, i, "after") for i, row in enumerate(_rows(layers, "after"))],
        ),
        timeline=[
            Phase(phase=str(row.get("phase", "")), seconds=_number(row, "seconds", f"timeline, entry {i}"))
            for i, row in enumerate(_rows(data, "timeline"))
        ],
        provenance=_section(data, "provenance"),
    )


def _point(row: dict[str, Any], index: int) -> Point:
    identity, kind = row.get("id"), row.get("kind")
    if not isinstance(identity, str) or not identity:
        raise OutputError(f"point number {index} of the frontier has no id")
    if kind not in ("baseline", "candidate"):
        raise OutputError(f"point {identity!r} is of kind {kind!r}; it must be 'baseline' or 'candidate'")
    verification = row.get("verification")
    full: dict[str, Any] = {
        "id": identity,
        "kind": kind,
        "label": str(row.get("label") or identity),
        "meets_budget": row.get("meets_budget"),
        "on_frontier": bool(row.get("on_frontier")),
        "verification": verification if isinstance(verification, dict) else None,
    }
    full |= {key: _number(row, key, f"point {identity!r}") for key in _POINT_NUMBERS}
    full |= {key: None if row.get(key) is None else str(row[key]) for key in _POINT_TEXTS}
    return Point(**full)  # type: ignore[typeddict-item]


def _layer(row: dict[str, Any], index: int, side: str) -> Layer:
    name = row.get("name")
    if not isinstance(name, str):
        raise OutputError(f"layer number {index} of layers.{side} has no name")
    numbers = {key: _number(row, key, f"layer {name!r} of layers.{side}") for key in _LAYER_NUMBERS}
    return Layer(name=name, op=row.get("op"), **numbers)  # type: ignore[typeddict-item]


def _section(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise OutputError(f"the frontier's {key} must be a mapping, not {type(value).__name__}")
    return value


def _rows(data: dict[str, Any], key: str) -> list[dict[str, Any]]:
    value = data.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise OutputError(f"the frontier's {key} must be a list of mappings")
    return value


def _number(row: dict[str, Any], key: str, where: str) -> float | int | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise OutputError(f"{where}: {key} must be a number or null, not {value!r}")
    return value if math.isfinite(value) else None
