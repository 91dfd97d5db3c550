"""A profile as text: totals, groups of layers, and the heaviest layers, cut to what a screen holds.

Layers whose names differ only in numbers and whose costs are the same stand in one row, with how many they are:
`blocks.*.attn.qkv` ×12.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tenfold.cost.record import LayerCost, Profile

NETWORK = "(network)"


@dataclass(frozen=True)
class _Row:
    names: tuple[str, ...]  # of the modules that stand in this row
    op: str
    shape: tuple[int, ...]  # output of the last operator of each
    params: int
    macs: int
    flops: int  # of every kind
    moved: int  # bytes
    order: int  # position of the first in the network
    ms: float | None = None  # predicted, of all together
    bound: str | None = None  # of the first

    @property
    def weight(self) -> tuple[int, int]:
        """What rows are ranked by: multiply-adds, then bytes for those without."""
        return self.macs, self.moved


def profile_table(profile: Profile, *, rows: int = 20, width: int = 80) -> str:
    """The text of a profile: at most `rows` groups and half as many heaviest layers, in `width` columns."""
    rows, width = max(1, rows), max(60, width)
    groups = _groups(profile.layers, rows)
    shown = sorted(sorted(groups, key=lambda row: row.weight, reverse=True)[:rows], key=lambda row: row.order)
    parts = [
        *_wrapped(_totals(profile), width),
        "",
        *_table(
            "Where the cost goes" + (f" (the heaviest {rows} of {len(groups)} groups)" if len(groups) > rows else ""),
            ("group", "×", "params", "MACs", "share", "moved", "FLOP/B"),
            [
                (_label(row.names), _times(row), quantity(row.params), quantity(row.macs), _share(row, profile),
                 quantity(row.moved, "B"), _intensity(row))
                for row in shown
            ],
            width,
        ),
    ]  # fmt: skip
    singles = sorted(_merged([layer] for layer in profile.layers), key=lambda row: row.weight, reverse=True)
    timed = any(row.ms is not None for row in singles)
    if timed:
        singles.sort(key=lambda row: row.ms or 0.0, reverse=True)
    if len(singles) > 1:
        parts += [
            "",
            *_table(
                f"The {'slowest' if timed else 'heaviest'} layers ({len(profile.layers)} in all)",
                ("layer", "×", "operator", "output", "MACs", *(("ms", "bound") if timed else ("share", "FLOP/B"))),
                [
                    (_label(row.names), _times(row), _operator(row.op), "×".join(map(str, row.shape)), quantity(row.macs),
                     *((_milliseconds(row.ms), row.bound or "–") if timed else (_share(row, profile), _intensity(row))))
                    for row in singles[: max(1, rows // 2)]
                ],
                width,
                left=("operator",),
            ),
        ]  # fmt: skip
    totals = profile.by_operator
    if len(totals) > 1:
        timed = any(total.predicted_ms is not None for total in totals)
        shown_totals = totals[: max(1, rows // 2)]
        parts += [
            "",
            *_table(
                "By operator" + (f" (the first {len(shown_totals)} of {len(totals)})" if len(totals) > len(shown_totals) else ""),
                ("operator", "calls", "MACs", "other FLOPs", "moved", "FLOP/B", *(("ms",) if timed else ())),
                [
                    (_operator(total.op) + (" (depthwise)" if total.kind == "depthwise" else ""), str(total.calls), quantity(total.macs), quantity(total.other_flops),
                     quantity(total.bytes_read + total.bytes_written, "B"), f"{total.intensity:.3g}",
                     *((_milliseconds(total.predicted_ms),) if timed else ()))
                    for total in shown_totals
                ],
                width,
            ),
        ]  # fmt: skip
    if profile.unknown:
        parts += [
            "",
            *_wrapped([f"NOT COUNTED, no formula is registered: {', '.join(profile.unknown)}"], width),
        ]
    return "\n".join(parts) + "\n"


def quantity(value: float, unit: str = "") -> str:
    """A count with four significant digits and a decimal prefix: 4089184256 -> '4.089 G'."""
    for factor, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.99995:
            return f"{value / factor:.4g} {prefix}{unit}"
    return f"{value:.4g} {unit}".rstrip()


def _totals(profile: Profile) -> list[str]:
    shapes = ", ".join("×".join(map(str, shape)) or "scalar" for shape in profile.input_shapes)
    return [
        f"{profile.network}, input {shapes}" if shapes else profile.network,
        f"parameters   {quantity(profile.params)} ({quantity(profile.trainable_params)} trainable), "
        f"{quantity(profile.weight_bytes, 'B')} with buffers",
        *(
            [f"active       {quantity(profile.active_params)} parameters for each token"]
            if profile.active_params not in (0, profile.params)
            else []
        ),
        f"arithmetic   {quantity(profile.macs, 'MACs')} = {quantity(profile.flops, 'FLOPs')}; "
        f"{quantity(profile.other_flops, 'FLOPs')} beside the products",
        *(
            [
                f"causal       {quantity(profile.causal_macs, 'MACs')} without the scores that causal masks hide"
            ]
            if profile.masked_macs
            else []
        ),
        f"activations  {quantity(profile.activation_bytes, 'B')} written, "
        f"peak {quantity(profile.peak_activation_bytes, 'B')} eager (in {profile.peak_layer or NETWORK}), "
        f"{quantity(profile.fused_peak_activation_bytes, 'B')} fused",
        f"moved        {quantity(profile.bytes_read + profile.bytes_written, 'B')}, "
        f"{profile.intensity:.3g} FLOPs for each byte",
    ]


def _groups(layers: Sequence[LayerCost], rows: int) -> list[_Row]:
    """Rows at the greatest depth of module names that gives at most `rows` of them (depth 1 may give more)."""
    deepest = max((layer.name.count(".") + 1 for layer in layers), default=1)
    chosen: list[_Row] = []
    for depth in range(1, deepest + 1):
        members: dict[str, list[LayerCost]] = {}
        for layer in layers:
            members.setdefault(".".join(layer.name.split(".")[:depth]), []).append(layer)
        merged = _merged(members.values(), names=list(members))
        if chosen and len(merged) > rows:
            break
        chosen = merged
    return chosen


def _merged(groups: Iterable[Sequence[LayerCost]], names: Sequence[str] | None = None) -> list[_Row]:
    """One row for all groups of layers that are alike but for the numbers in their names."""
    alike: dict[tuple[object, ...], _Row] = {}
    for order, group in enumerate(groups):
        name = names[order] if names is not None else group[0].name
        row = _Row(
            names=(name,),
            op=group[0].op,
            shape=group[-1].output_shape,
            params=sum(layer.params for layer in group),
            macs=sum(layer.macs for layer in group),
            flops=sum(layer.flops + layer.other_flops for layer in group),
            moved=sum(layer.bytes_read + layer.bytes_written for layer in group),
            order=order,
            ms=_sum([layer.predicted_ms for layer in group]),
            bound=group[0].bound,
        )
        key = (re.sub(r"\d+", "*", name), row.op, row.shape, row.params, row.flops, row.moved, row.bound)
        first = alike.get(key)
        if first is not None:
            row = _Row(
                (*first.names, name), row.op, row.shape, first.params + row.params, first.macs + row.macs,
                first.flops + row.flops, first.moved + row.moved, first.order, _sum([first.ms, row.ms]), first.bound,
            )  # fmt: skip
        alike[key] = row
    return list(alike.values())


def _label(names: Sequence[str]) -> str:
    """The common name, with * for the numbers that differ."""
    if len(names) == 1:
        return names[0] or NETWORK
    parts = zip(*(re.split(r"(\d+)", name) for name in names), strict=True)
    return "".join(part[0] if len(set(part)) == 1 else "*" for part in parts)


def _operator(op: str) -> str:
    """A name that fits a column: the backend's own names for attention are long."""
    return "attention" if "attention" in op else op.strip("_")[:20]


def _times(row: _Row) -> str:
    return str(len(row.names)) if len(row.names) > 1 else ""


def _share(row: _Row, profile: Profile) -> str:
    return f"{row.macs / profile.macs:.1%}" if profile.macs else "–"


def _intensity(row: _Row) -> str:
    return f"{row.flops / row.moved:.3g}" if row.moved else "–"


def _sum(times: Sequence[float | None]) -> float | None:
    known = [time for time in times if time is not None]
    return sum(known) if known else None


def _milliseconds(time: float | None) -> str:
    return "–" if time is None else f"{time:.3g}"


def _table(
    title: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    left: Sequence[str] = (),
) -> list[str]:
    """Lines of a table whose first column takes what the others leave; long names keep their end."""
    widths = [max(len(line[column]) for line in (header, *rows)) for column in range(len(header))]
    room = max(12, width - sum(widths[1:]) - 2 * (len(header) - 1))
    widths[0] = min(widths[0], room)
    lines = []
    for line in (header, *rows):
        name = line[0] if len(line[0]) <= widths[0] else "…" + line[0][-(widths[0] - 1) :]
        cells = [name.ljust(widths[0])]
        for title_of, cell, size in zip(header[1:], line[1:], widths[1:], strict=True):
            cells.append(cell.ljust(size) if title_of in left else cell.rjust(size))
        lines.append("  ".join(cells).rstrip())
    rule = "─" * min(width, sum(widths) + 2 * (len(header) - 1))
    return [title, rule, lines[0], rule, *lines[1:]]


def _wrapped(lines: Iterable[str], width: int) -> list[str]:
    """Lines of at most `width` columns, broken at spaces, and within a word only where one is longer."""
    done = []
    for line in lines:
        while len(line) > width:
            cut = line.rfind(" ", 1, width + 1)
            cut = cut if cut > width // 2 else width
            done.append(line[:cut].rstrip())
            line = " " * 4 + line[cut:].lstrip()
        done.append(line)
    return done
