"""Words for numbers, sentences for results, and layers in stages."""

from __future__ import annotations

from typing import Any

import pytest
from frontier_sample import layers as sample_layers
from frontier_sample import sample
from hypothesis import given
from hypothesis import strategies as st

from tenfold.report import wording
from tenfold.report.layers import grouped, matched
from tenfold.report.schema import completed
from tenfold.report.verdict import headline, verdicts


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (wording.significant(0.3061), "0.306"),
        (wording.significant(999.6), "1,000"),
        (wording.significant(1234.4), "1,234"),
        (wording.significant(0.00456, 2), "0.0046"),
        (wording.size(306_000), "0.306 MB"),
        (wording.size(99_500), "99.5 kB"),
        (wording.size(212e6), "212 MB"),
        (wording.size(12), "12 bytes"),
        (wording.amount(125_485_706), "125 M"),
        (wording.amount(650), "650"),
        (wording.milliseconds(0.3234, 0.0091), "0.323 ms (IQR 0.0091)"),
        (wording.duration(9.96), "10 s"),
        (wording.duration(59.7), "1 min"),
        (wording.duration(286.2), "4 min 46 s"),
        (wording.duration(3900), "1 h 5 min"),
        (wording.ratio(11.209), "11.2×"),
        (wording.ratio(1.0712), "1.07×"),
        (wording.score(0.9412, "accuracy", 0.93649, 0.94561), "94.12% (93.65 to 94.56)"),
        (wording.drop(-0.00001, "accuracy"), "0.00 points"),
        (wording.drop(-0.0012, "accuracy"), "−0.12 points"),
        (wording.score(-34.25678, "negative perplexity"), "−34.26"),
    ],
)
def test_words_for_numbers(text: str, expected: str) -> None:
    assert text == expected


@given(st.floats(min_value=1e-6, max_value=1e9), st.integers(2, 5))
def test_significant_digits_keep_the_value(value: float, digits: int) -> None:
    back = float(wording.significant(value, digits).replace(",", ""))
    # Half a unit in the last digit; whole numbers are not cut further.
    assert abs(back - value) <= max(value * 0.5001 * 10.0 ** (1 - digits), 0 if value < 10**digits else 0.5)


def said(**change: Any) -> str:
    data = sample()
    best = next(point for point in data["points"] if point["id"] == "c3")
    best |= change
    return headline(completed(data)).sentence


def test_headline_in_every_case() -> None:
    assert said(drop=-0.002, drop_low=-0.004, drop_high=0.0).endswith("0.20 points of accuracy gained")
    assert said(latency_ms=2.2).startswith("11.2× smaller and 2.0× slower than")
    assert said(size_bytes=None).startswith("3.4× faster than the fp32 export; size not compared")
    assert said(drop=None, validation_drop=None).endswith("loss of accuracy not measured")
    data = sample() | {"best": "onnx-fp32"}
    assert (
        headline(completed(data)).sentence == "Nothing found is better than the original, ONNX Runtime, fp32"
    )
    data = sample() | {"best": None}
    assert headline(completed(data)).sentence == "14 measured networks, none of them recommended"


def test_loss_is_judged_by_the_upper_bound() -> None:
    report = completed(sample())
    point = next(point for point in report["points"] if point["id"] == "c4")
    assert point["drop"] < 0.01 < point["drop_high"]  # type: ignore[operator]
    assert verdicts(report, point)[3].status == "missed"
    point["drop_high"] = None
    assert verdicts(report, point)[3].status == "unmeasured"


def test_layers_are_matched_by_name_and_grouped_by_stage() -> None:
    rows = matched(sample_layers())  # type: ignore[arg-type]
    groups = grouped(rows)
    assert [(group.name, len(group.rows)) for group in groups] == [
        ("conv1", 1),
        ("layer1", 18),
        ("layer2", 18),
        ("layer3", 18),
        ("fc", 1),
    ]
    before = sample_layers()["before"]
    assert sum(group.total("before", "macs") or 0 for group in groups) == sum(row["macs"] for row in before)
    assert sum(row.after is None for row in rows) == len(before) - len(sample_layers()["after"])


def test_new_layers_stand_where_they_run_and_unknown_totals_stay_unknown() -> None:
    def layer(name: str, macs: int | None = 1) -> dict[str, Any]:
        return {"name": name, "op": "linear", "macs": macs, "params": 1, "ms": None}

    data = sample() | {
        "layers": {
            "before": [layer("a"), layer("b"), layer("c"), layer("c")],
            "after": [layer("a"), layer("b.0"), layer("b.1", None), layer("c")],
        }
    }
    rows = matched(completed(data)["layers"])
    assert [row.name for row in rows] == ["a", "b.0", "b.1", "b", "c", "c (2)"]
    (group,) = grouped(rows)
    assert group.total("before", "macs") == 4
    assert group.total("after", "macs") is None


@given(st.lists(st.from_regex(r"[ab](\.[ab]){0,4}", fullmatch=True), max_size=60))
def test_groups_hold_every_layer_once_and_in_order(names: list[str]) -> None:
    one = [{"name": name, "op": None, "macs": 1, "params": 1, "ms": None} for name in names]
    rows = matched({"before": one, "after": []})  # type: ignore[typeddict-item]
    assert len(rows) == len(names)
    grouped_names = [row.name for group in grouped(rows) for row in group.rows]
    assert sorted(grouped_names) == sorted(row.name for row in rows)
