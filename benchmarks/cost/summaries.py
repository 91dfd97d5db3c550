"""The figures of many checks: on all networks, and on those that nobody looked at while the model was made."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.cost.networks import DEVELOPMENT

from tenfold.cost.prediction_check import Check, row_json, summary

COLUMNS = [
    "", "networks", "MAPE", "median", "rank", "90% held", "width", "repeat error", "roofline MAPE", "rank", "MACs MAPE",
    "rank",
]  # fmt: skip
UNSEEN, ALL = "never looked at", "all"


def summaries(checks: Sequence[Check], *, repeated: bool = True) -> dict[str, Any]:
    """The summary of both sets, and every row; no repeat error where networks were measured once."""
    unseen = [check for check in checks if check.network not in DEVELOPMENT]
    found = {UNSEEN: summary(unseen), ALL: summary(checks)}
    if not repeated:
        found = {title: {**result, "repeat_error": None} for title, result in found.items()}
    return {**found, "rows": [row_json(check) for check in checks]}


def table_row(title: str, result: dict[str, Any]) -> list[str]:
    """One line of the table."""
    predicted, roofline, macs = result["predicted"], result["roofline"], result["macs_only"]
    return [
        title, str(result["networks"]), f"{predicted['mape']:.1%}", f"{predicted['median_error']:.1%}",
        f"{predicted['spearman']:.3f}", f"{result['coverage']:.0%}", f"×{result['interval_width']:.2f}",
        "–" if result["repeat_error"] is None else f"{result['repeat_error']:.1%}", f"{roofline['mape']:.0%}", f"{roofline['spearman']:.3f}",
        f"{macs['mape']:.0%}", f"{macs['spearman']:.3f}",
    ]  # fmt: skip
