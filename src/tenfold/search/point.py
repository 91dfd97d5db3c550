"""A point of the frontier: one artefact with everything that was measured of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

BY_RECIPE = "r"  # begins the names of the points that recipes make which the user gave


@dataclass
class Point:
    """One artefact. A value that was not measured is None, which no limit accepts.

    `score` and `drop` are on the test set, with 95% intervals; the `validation_` ones on the validation set.
    A drop is original minus this, paired on the same examples. Sizes are bytes, latencies milliseconds.
    """

    id: str
    kind: str  # "baseline" or "candidate"
    label: str
    precision: str = "fp32"
    recipe: str | None = None  # path of the recipe file, relative to the run's folder
    recipe_text: str | None = None
    score: float | None = None
    score_low: float | None = None
    score_high: float | None = None
    drop: float | None = None
    drop_low: float | None = None
    drop_high: float | None = None
    validation_score: float | None = None
    validation_drop: float | None = None
    validation_drop_low: float | None = None
    validation_drop_high: float | None = None
    size_bytes: int | None = None
    latency_ms: float | None = None
    latency_iqr_ms: float | None = None
    runs: int | None = None  # timed calls behind the median
    peak_memory_bytes: int | None = None
    params: int | None = None
    macs: int | None = None
    predicted_latency_ms: float | None = None
    predicted_latency_low_ms: float | None = None
    predicted_latency_high_ms: float | None = None
    verification: dict[str, Any] | None = None
    seconds: float | None = None  # what making it took
    seconds_per_example: float | None = None  # of scoring, with every core
    meets_budget: bool | None = None
    on_frontier: bool = False
    note: str | None = None
    same_as: str | None = None  # the point, made earlier, whose file is the same byte for byte
    artifact: str | None = None  # path relative to the run's folder

    @property
    def finalist(self) -> str:
        """The finalist that it is one form of; empty for a baseline."""
        return self.id.partition("-")[0] if self.kind == "candidate" else ""

    @property
    def by_recipe(self) -> bool:
        """Whether a recipe that the user gave made it: it says nothing of what the search should try."""
        return self.finalist.startswith(BY_RECIPE)

    def to_json(self) -> dict[str, Any]:
        """The point as plain data, as it stands in frontier.json."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Point:
        """The inverse of `to_json`; keys of a later version are passed over."""
        known = {field.name for field in fields(cls)}
        return cls(**{key: value for key, value in data.items() if key in known})
