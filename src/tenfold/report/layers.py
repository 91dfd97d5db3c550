"""The cost of layers before and after, matched by name and grouped by stage, so that a hundred can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tenfold.report import wording
from tenfold.report.schema import Layer, Layers

QUANTITIES = {"macs": "MACs", "params": "Parameters", "ms": "Time (ms)"}
"""What a layer costs, with the headings."""

SIDES = ("before", "after")
_FEW = 12  # so many layers need no groups
_STAGE = 8  # a stage of more layers than this may be divided further


@dataclass
class Row:
    """One layer: `before` is None if the change made it, `after` is None if the change took it away."""

    name: str
    op: str | None
    before: Layer | None
    after: Layer | None

    def cost(self, side: str, quantity: str) -> float | None:
        """The layer's cost 'before' or 'after'; None where it is not there or was not measured."""
        layer = getattr(self, side)
        return None if layer is None else layer[quantity]


@dataclass
class Group:
    """The layers whose names begin alike, in order."""

    name: str
    rows: list[Row] = field(default_factory=list)

    def total(self, side: str, quantity: str) -> float | None:
        """The sum over the layers that are there; None where one of them was not measured."""
        layers = [layer for row in self.rows if (layer := getattr(row, side)) is not None]
        values = [layer[quantity] for layer in layers]
        return None if None in values else sum(values)


def matched(layers: Layers) -> list[Row]:
    """Before and after by name; a new layer stands behind the one that it follows in the changed network."""
    before, after = _named(layers["before"]), _named(layers["after"])
    names = list(before)
    place = 0
    for name in after:
        if name in before:
            place = names.index(name) + 1
        else:
            names.insert(place, name)
            place += 1
    rows = []
    for name in names:
        old, new = before.get(name), after.get(name)
        rows.append(Row(name, (new or old or {"op": None})["op"], old, new))
    return rows


def _named(layers: Sequence[Layer]) -> dict[str, Layer]:
    """Layers by name; a layer that is called again is its own row, 'fc (2)'."""
    named: dict[str, Layer] = {}
    for layer in layers:
        name, call = layer["name"], 2
        while name in named:
            name, call = f"{layer['name']} ({call})", call + 1
        named[name] = layer
    return named


def grouped(rows: Sequence[Row]) -> list[Group]:
    """Rows by the first parts of their dotted names; a stage with over half of all layers is divided further."""
    if len(rows) <= _FEW:
        return [Group("all layers", list(rows))] if rows else []
    groups = _split(rows, depth=1)
    while True:
        wide = next((g for g in groups if len(g.rows) > max(_STAGE, len(rows) // 2)), None)
        parts = _split(wide.rows, wide.name.count(".") + 2) if wide else []
        if wide is None or (len(parts) == 1 and parts[0].name == wide.name):
            return groups
        at = groups.index(wide)
        groups[at : at + 1] = parts


def _split(rows: Sequence[Row], depth: int) -> list[Group]:
    groups: dict[str, Group] = {}
    for row in rows:
        name = ".".join(row.name.split(".")[:depth])
        groups.setdefault(name, Group(name)).rows.append(row)
    return list(groups.values())


def measured(layers: Layers) -> list[tuple[str, str]]:
    """The quantities that at least one layer has, with their headings."""
    every = [*layers["before"], *layers["after"]]
    return [(key, name) for key, name in QUANTITIES.items() if any(layer[key] is not None for layer in every)]  # type: ignore[literal-required]


def drawn(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Groups and their rows as bars: lengths in [0, 1] and texts. Groups share one scale, layers another."""
    rows = [row for group in groups for row in group.rows]
    group_top = {
        key: _top([group.total(side, key) for group in groups for side in SIDES]) for key in QUANTITIES
    }
    row_top = {key: _top([row.cost(side, key) for row in rows for side in SIDES]) for key in QUANTITIES}
    return [
        {
            "name": group.name,
            "count": len(group.rows),
            "bars": {
                key: _bars(group.total("before", key), group.total("after", key), top, key)
                for key, top in group_top.items()
            },
            "rows": [
                {
                    "name": row.name,
                    "op": row.op,
                    "bars": {
                        key: _bars(row.cost("before", key), row.cost("after", key), top, key)
                        | {"gone": row.after is None, "new": row.before is None}
                        for key, top in row_top.items()
                    },
                }
                for row in group.rows
            ],
        }
        for group in groups
    ]


def _top(values: Sequence[float | None]) -> float:
    return max((value for value in values if value is not None), default=0) or 1.0


def _bars(before: float | None, after: float | None, top: float, key: str) -> dict[str, Any]:
    text = wording.milliseconds if key == "ms" else wording.amount
    return {
        "before": None if before is None else before / top,
        "after": None if after is None else after / top,
        "before_text": text(before),
        "after_text": text(after),
        "gone": False,
        "new": False,
    }
