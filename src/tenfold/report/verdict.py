"""What the run found, in one sentence and against each limit that was asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tenfold.report import wording
from tenfold.report.schema import Point, Report

LIMIT_NAMES = {
    "latency_ms": "latency",
    "size_mb": "size",
    "memory_mb": "memory",
    "max_drop": "accuracy loss",
}
"""The keys of a budget, in the words of a sentence."""

Status = Literal["met", "missed", "unmeasured", "free"]


@dataclass(frozen=True)
class Headline:
    """The result: one sentence, the interval that belongs to it, and what a reader should know beside it."""

    sentence: str
    interval: str | None
    detail: str | None
    good: bool


@dataclass(frozen=True)
class Verdict:
    """One limit: what was found, what was asked, and whether it holds ('free' is no limit)."""

    key: str
    name: str
    found: str
    spread: str | None
    asked: str
    status: Status


@dataclass(frozen=True)
class Loss:
    """A drop against the original with its 95% interval, and the set that it was judged on."""

    value: float | None
    low: float | None
    high: float | None
    split: Literal["test", "validation"]


def by_id(report: Report, identity: str | None) -> Point | None:
    """The point of that id; None for None."""
    return next((point for point in report["points"] if point["id"] == identity), None)


def loss(point: Point) -> Loss:
    """The drop on the test set, or, where that set was not scored, on validation."""
    if point["drop"] is None and point["validation_drop"] is not None:
        low, high = point["validation_drop_low"], point["validation_drop_high"]
        return Loss(point["validation_drop"], low, high, "validation")
    return Loss(point["drop"], point["drop_low"], point["drop_high"], "test")


def headline(report: Report) -> Headline:
    """The one sentence that the report is about."""
    best, original = by_id(report, report["best"]), by_id(report, report["original"])
    assert original is not None  # `completed` checked it
    message = report["message"]
    if report["feasible"] is False:
        limit = LIMIT_NAMES.get(report["binding"] or "", report["binding"])
        sentence = "No network found meets the budget" + (f": {limit} is what binds" if limit else "")
        nearest = None
        if best is not None and best["id"] != original["id"]:
            compared, interval = comparison(best, original, report["metric"])
            nearest = f"The nearest, {best['id']}: {compared}{f' ({interval})' if interval else ''}."
        return Headline(sentence, None, " ".join(filter(None, (message, nearest))) or None, good=False)
    if best is None:
        count = len(report["points"])
        sentence = f"{count} measured networks, none of them recommended"
        return Headline(sentence, None, message, good=False)
    if best["id"] == original["id"]:
        sentence = f"Nothing found is better than the original, {original['label']}"
        return Headline(sentence, None, message, good=True)
    return Headline(*comparison(best, original, report["metric"]), message, good=True)


def comparison(point: Point, original: Point, metric: str) -> tuple[str, str]:
    """'11.2× smaller and 3.4× faster than the fp32 export; 0.48 points of accuracy lost', and the interval of that."""
    named = "the fp32 export" if original["id"] == "onnx-fp32" else original["label"]
    gains = {
        "size": times(original["size_bytes"], point["size_bytes"], "smaller", "larger"),
        "latency": times(original["latency_ms"], point["latency_ms"], "faster", "slower"),
    }
    known = " and ".join(gain for gain in gains.values() if gain)
    missing = " and ".join(name for name, gain in gains.items() if not gain)
    lost, interval = loss_in_words(point, metric)
    parts = [
        f"{known} than {named}" if known else "",
        f"{missing} not compared, for want of a measurement" if missing else "",
    ]
    return "; ".join([*filter(None, parts), lost]), interval


def times(before: float | None, after: float | None, less: str, more: str) -> str | None:
    """How `after` compares with `before`, both a cost: '3.4× faster', '1.20× slower'; None if one is missing or 0."""
    if not before or not after:
        return None
    return (
        f"{wording.ratio(before / after)} {less}"
        if before >= after
        else f"{wording.ratio(after / before)} {more}"
    )


def loss_in_words(point: Point, metric: str) -> tuple[str, str]:
    """'0.48 points of accuracy lost' and '95% interval 0.20 to 0.76'."""
    lost = loss(point)
    if lost.value is None:
        return f"loss of {metric} not measured", ""
    gained = lost.value < 0
    amount = wording.figure(abs(lost.value), metric)
    unit = " points of" if wording.is_share(metric) else " of"
    sentence = f"{amount}{unit} {metric} {'gained' if gained else 'lost'}"
    where = ", on validation" if lost.split == "validation" else ""
    if lost.low is None or lost.high is None:
        return sentence, f"interval not measured{where}"
    low, high = (-lost.high, -lost.low) if gained else (lost.low, lost.high)
    return sentence, f"95% interval {wording.figure(low, metric)} to {wording.figure(high, metric)}{where}"


def verdicts(report: Report, point: Point) -> list[Verdict]:
    """`point` against each limit. What was not measured does not meet its limit."""
    budget, metric, lost = report["budget"], report["metric"], loss(point)
    latency, iqr = point["latency_ms"], point["latency_iqr_ms"]
    found = {
        "latency_ms": ("Latency", latency, wording.milliseconds(latency)),
        "size_mb": ("Size on disk", _mega(point["size_bytes"]), wording.size(point["size_bytes"])),
        "memory_mb": (
            "Peak memory",
            _mega(point["peak_memory_bytes"]),
            wording.size(point["peak_memory_bytes"]),
        ),
        # A drop is judged by the upper bound of its interval, everything else by what was measured.
        "max_drop": (f"Loss of {metric}", lost.high, wording.drop(lost.value, metric)),
    }
    spread = {
        "latency_ms": None if latency is None or iqr is None else f"IQR {wording.significant(iqr, 2)} ms",
        "max_drop": None if lost.value is None else loss_in_words(point, metric)[1],
    }
    rows = []
    for key, (name, value, text) in found.items():
        limit = budget[key]  # type: ignore[literal-required]
        asked = "no limit" if limit is None else f"limit {_limit(key, limit, metric)}"
        rows.append(Verdict(key, name, text, spread.get(key), asked, _judge(value, limit)))
    return rows


def _limit(key: str, limit: float, metric: str) -> str:
    """A limit as it was asked: '5 ms', '0.5 MB', '1 points'."""
    if key == "max_drop":
        points = f"{100 * limit:g}"
        return f"{points} point{'' if points == '1' else 's'}" if wording.is_share(metric) else f"{limit:g}"
    return f"{limit:g} {'ms' if key == 'latency_ms' else 'MB'}"


def _mega(value: float | None) -> float | None:
    return None if value is None else value / 1e6


def _judge(value: float | None, limit: float | None) -> Status:
    if limit is None:
        return "free"
    if value is None:
        return "unmeasured"
    return "met" if value <= limit else "missed"
