"""The frontier as a table of 80 columns for the terminal."""

from __future__ import annotations

from typing import Any

from rich import box
from rich.table import Table
from rich.text import Text

from tenfold.report import wording
from tenfold.report.frontier_report import ordered
from tenfold.report.schema import Point, Report, completed
from tenfold.report.verdict import by_id, headline, loss

ABSENT = "–"  # "not measured" in a narrow column; the caption explains it


def frontier_table(data: dict[str, Any]) -> Table:
    """`data` (the schema of `frontier.json`) as a table: the result as its title, then a line for each point.

    It fits 80 columns; in a wider terminal the labels of candidates are shown in full.
    """
    report = completed(data)
    best, original = by_id(report, report["best"]), by_id(report, report["original"])
    assert original is not None  # `completed` checked it
    result, metric = headline(report), report["metric"]
    title = f"{result.sentence} ({result.interval})" if result.interval else result.sentence
    table = Table(
        title=Text(title, style="bold green" if result.good else "bold red"),
        caption=Text(_caption(report, best)),
        box=box.SIMPLE_HEAD,
        title_justify="left",
        caption_justify="left",
        padding=0,
        show_edge=False,
    )
    rows = [(point, _cells(point, original, report)) for point in ordered(report)]
    # The figures keep their width; what remains is for the names, which end in an ellipsis where it is short.
    table.add_column("\npoint")
    for column, heading in enumerate(_headings(metric), start=1):
        width = max(cells[column].cell_len for _, cells in rows)
        width = max(width, *(len(line) for line in heading.split("\n")))
        table.add_column(Text(heading), justify="right", no_wrap=True, width=width)
    for point, cells in rows:
        style = "bold" if point is best else "dim" if not point["on_frontier"] else ""
        table.add_row(*cells, style=style)
    return table


def _headings(metric: str) -> tuple[str, ...]:
    unit = "%" if wording.is_share(metric) else ""
    return (
        f"{metric[:10]}\n{unit}",
        "loss\n(95%)",
        "size\nMB",
        "\n×",
        "latency\nms",
        "\n×",
        "memory\nMB",
        "\nok",
    )


def _cells(point: Point, original: Point, report: Report) -> list[Text]:
    metric, lost = report["metric"], loss(point)
    score = point["score"] if point["score"] is not None else point["validation_score"]
    mark = "" if point["score"] is not None or score is None else "*"
    # A Text of its own: the column may shrink, the line does not wrap.
    name = Text(overflow="ellipsis", no_wrap=True)
    name.append(f"{'★ ' if point['id'] == report['best'] else ''}{point['id']}")
    if point["same_as"] is not None:
        name.append(f" the same file as {point['same_as']}", style="dim")
    elif point["kind"] == "candidate" and point["label"] != point["id"]:
        name.append(f" {point['label']}", style="dim")
    drop = ABSENT if lost.value is None else wording.figure(lost.value, metric)
    if lost.value is not None and lost.low is not None and lost.high is not None:
        drop += f" ({wording.figure(lost.low, metric)}…{wording.figure(lost.high, metric)})"
    verdict = {True: "✓", False: "✗", None: ABSENT}[point["meets_budget"]]
    texts = (
        ABSENT if score is None else wording.figure(score, metric) + mark,
        drop,
        _figure(point["size_bytes"], 1e6),
        _gain(original["size_bytes"], point["size_bytes"]),
        _figure(point["latency_ms"]),
        _gain(original["latency_ms"], point["latency_ms"]),
        _figure(point["peak_memory_bytes"], 1e6),
        verdict,
    )
    return [name, *map(Text, texts)]


def _figure(value: float | None, unit: float = 1) -> str:
    return ABSENT if value is None else wording.significant(value / unit)


def _gain(before: float | None, after: float | None) -> str:
    """How many times smaller or faster: '11.2', '3.4', '0.36'."""
    if not before or not after:
        return ABSENT
    return wording.ratio(before / after).removesuffix("×")


def _caption(report: Report, best: Point | None) -> str:
    lines = []
    if report["message"]:
        lines.append(report["message"])
    if best is not None and best["label"] != best["id"]:
        role = "nearest" if report["feasible"] is False else "best"
        lines.append(f"★ {role}, {best['id']}: {best['label']}")
    rows = report["points"]
    lines += [
        f"{row['id']} is the same file as {row['same_as']}" for row in rows if row["same_as"] is not None
    ]
    if any(row["score"] is None and row["validation_score"] is not None for row in rows):
        lines.append("* on validation; the test set is scored for the finalists only")
    lines.append(f"× against {report['original']}; {ABSENT} not measured, or no limit")
    return "\n".join(lines)
