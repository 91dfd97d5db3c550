"""Two networks' totals beside each other, for the page and for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tenfold.report import wording
from tenfold.report.profile_view import Alike, View, alike
from tenfold.report.verdict import times

ROWS = (
    ("Latency", "ms", wording.milliseconds, "faster", "slower"),
    ("MACs", "macs", wording.amount, "fewer", "more"),
    ("Parameters", "params", wording.amount, "fewer", "more"),
    ("Weights", "weight_bytes", wording.size, "less", "more"),
    ("Peak activations", "peak_bytes", wording.size, "less", "more"),
    ("Peak, fused", "fused_peak_bytes", wording.size, "less", "more"),
    ("Moved", "moved", wording.size, "less", "more"),
)


def totals(a: View, b: View) -> list[dict[str, Any]]:
    """A row for each cost: its texts, lengths in [0, 1], and the ratio of b to a in words ("" where unknown)."""
    rows = []
    for name, key, text, less, more in ROWS:
        pair = getattr(a, key), getattr(b, key)
        if pair == (None, None):
            continue
        known = None not in pair and max(pair) > 0
        rows.append(
            {
                "name": name,
                "texts": tuple(text(value) for value in pair),
                "shares": tuple(value / max(pair) for value in pair) if known else (None, None),
                "ratio": "equal" if known and pair[0] == pair[1] else times(*pair, less, more) or "",
            }
        )
    return rows


def profile_comparison(a: View, b: View, width: int = 80, stages: int = 12) -> str:
    """Two networks as text of `width` columns: totals with their ratio, and where each has its arithmetic."""
    lines = [f"A  {a.name}, input {a.input}", f"B  {b.name}, input {b.input}", ""]
    rows = [(str(row["name"]), *row["texts"], str(row["ratio"]) or "–") for row in totals(a, b)]
    lines += _columns(("", "A", "B", "B is"), rows)
    for label, one in (("A", a), ("B", b)):
        if one.unknown:
            lines += ["", f"NOT COUNTED in {label}, no formula is registered: {', '.join(one.unknown)}"]
    weight = "ms" if a.ms is not None and b.ms is not None else "macs"
    heads = "time" if weight == "ms" else "MACs"
    for label, one in (("A", a), ("B", b)):
        whole = sum(getattr(layer, weight) or 0 for layer in one.layers) or 1
        groups = sorted(alike(one.layers), key=lambda group: -_sum(group, weight))[:stages]
        lines += ["", f"The heaviest layers of {label} ({len(one.layers)} in all)"]
        room = width - 44
        table = [
            (
                _cut(group.name, room),
                str(len(group.layers)) if len(group.layers) > 1 else "",
                group.layers[0].op[:12],
                wording.amount(_sum(group, "macs")),
                f"{_sum(group, weight) / whole:.1%}",
            )
            for group in groups
        ]
        lines += _columns(("layer", "×", "operator", "MACs", f"of {heads}"), table, left=(0, 2))
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _sum(group: Alike, key: str) -> float:
    return sum(getattr(layer, key) or 0 for layer in group.layers)


def _cut(name: str, room: int) -> str:
    """A long name keeps its end, which tells layers apart."""
    return name if len(name) <= room else "…" + name[-(room - 1) :]


def _columns(header: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> list[str]:
    widths = [max(len(line[i]) for line in (header, *rows)) for i in range(len(header))]
    rule = "─" * (sum(widths) + 2 * (len(widths) - 1))

    def laid(line: Sequence[str]) -> str:
        return "  ".join(
            cell.ljust(size) if i in left else cell.rjust(size)
            for i, (cell, size) in enumerate(zip(line, widths, strict=True))
        )

    return [laid(header), rule, *map(laid, rows)]
