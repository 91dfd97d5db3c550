"""The cost of layers before and after, matched by name and grouped by stage, so that a hundred can be read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tenfold.report.schema import Layer, Layers

QUANTITIES = ("macs", "params", "ms")
_FEW = 12  # so many layers need no groups
_STAGE = 8  # a stage of more layers than this may be divided further


@dataclass
class Row:
    """One layer: `before` is None if the change made it, `after` is None if the change took it away."""

    name: str
    op: str | None
    before: Layer | None
    after: Layer | None


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
