"""The HTML report: well formed, offline, escaped, and honest about what was not measured."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from frontier_sample import VARIANTS, infeasible, no_budget, one_candidate, sample

from tenfold.errors import OutputError
from tenfold.report import write_report

VOID = {"meta", "link", "br", "img", "input", "hr", "source"}


class Page(HTMLParser):
    """The elements, texts and scripts of a page; asserts that tags are balanced."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] == "script":
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data
        elif self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))

    def chart(self) -> dict[str, Any]:
        return next(json.loads(text) for attrs, text in self.scripts if attrs.get("id") == "frontier-data")


def drawn(data: dict[str, Any], tmp_path: Path) -> tuple[str, Page]:
    path = tmp_path / "report.html"
    write_report(data, path)
    html = path.read_text(encoding="utf-8")
    return html, Page(html)


@pytest.mark.parametrize("name", VARIANTS)
def test_page_is_well_formed_and_needs_no_network(name: str, tmp_path: Path) -> None:
    html, page = drawn(VARIANTS[name](), tmp_path)
    assert len(html.encode()) < 6_000_000
    for tag, attributes in page.elements:
        for key in ("src", "srcset", "action", "poster", "data", "background", "formaction"):
            assert key not in attributes, f"<{tag} {key}=…> would be fetched"
        href = attributes.get("href")
        assert href is None or href.startswith("#") or href == "data:,", f"<{tag} href={href}>"
    style = html[html.index("<style>") : html.index("</style>")]
    assert "@import" not in style
    assert "url(" not in style
    policy = next(a["content"] for _, a in page.elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe-eval" not in policy
    assert html.count("plotly.js v") == 1


@pytest.mark.parametrize("name", VARIANTS)
def test_references_inside_the_page_lead_somewhere(name: str, tmp_path: Path) -> None:
    _, page = drawn(VARIANTS[name](), tmp_path)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    for tag, attributes in page.elements:
        for key in ("for", "aria-labelledby"):
            assert attributes.get(key) is None or attributes[key] in ids
        if tag == "a":
            assert (attributes["href"] or "")[1:] in ids
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch("h[1-6]", tag)]
    assert levels.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in pairwise(levels))


def test_text_from_the_user_is_text(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>'\"&<!-- ]]>"
    data = sample()
    data["message"] = data["metric"] = evil
    data["provenance"] = {"network": evil, evil: evil, "versions": {evil: [evil]}}
    data["timeline"] = [{"phase": evil, "seconds": 1.0}]
    data["layers"] = {"before": [{"name": evil, "op": evil, "macs": 1, "params": 1}], "after": []}
    for key in ("label", "recipe", "recipe_text", "artifact", "note"):
        data["points"][6][key] = evil
    data["points"][6]["verification"] = {evil: evil}
    data["points"][7]["id"] = evil
    _, page = drawn(data, tmp_path)
    # Only the page's own scripts: the chart's data, plotly.js, and its two files.
    assert [attrs.get("type") for attrs, _ in page.scripts] == ["application/json", None, None, None]
    assert all(tag != "img" for tag, _ in page.elements)
    assert all(not key.startswith("on") for _, attributes in page.elements for key in attributes)
    assert {point["id"] for point in page.chart()["points"]} >= {evil}
    assert page.text.count("<script>alert(1)</script>") > 8


def test_headline_and_verdicts_of_a_feasible_run(tmp_path: Path) -> None:
    _, page = drawn(sample(), tmp_path)
    # 3,430,000 / 306,000 = 11.21 and 1.10 / 0.323 = 3.41; 94.60 - 94.12 = 0.48, ± 0.28.
    assert "11.2× smaller and 3.4× faster than the fp32 export; 0.48 points of accuracy lost" in page.text
    assert "95% interval 0.20 to 0.76" in page.text
    tiles = [
        attributes["class"]
        for tag, attributes in page.elements
        if (attributes.get("class") or "").startswith("tile ")
    ]
    assert tiles == ["tile met", "tile met", "tile free", "tile met"]


def test_infeasible_budget_names_the_limit_that_binds(tmp_path: Path) -> None:
    _, page = drawn(infeasible(), tmp_path)
    assert "No network found meets the budget: latency is what binds" in page.text
    assert "The fastest found is 0.104 ms; you asked for 0.05 ms." in page.text
    tiles = [
        attributes["class"]
        for tag, attributes in page.elements
        if (attributes.get("class") or "").startswith("tile ")
    ]
    # The nearest point's memory was not measured: that is not a limit kept.
    assert tiles == ["tile missed", "tile met", "tile unmeasured", "tile free"]


def test_without_a_budget_nothing_is_judged(tmp_path: Path) -> None:
    _, page = drawn(no_budget(), tmp_path)
    tiles = [
        attributes["class"]
        for tag, attributes in page.elements
        if (attributes.get("class") or "").startswith("tile ")
    ]
    assert tiles == ["tile free"] * 4
    assert "✓ met" not in page.text
    assert set(page.chart()["limits"].values()) == {None}


def test_validation_scores_are_called_that(tmp_path: Path) -> None:
    _, page = drawn(one_candidate(), tmp_path)
    assert "95% interval −0.08 to 0.72, on validation" in page.text
    assert page.chart()["points"][-1]["test"] == [None, None, None]
    assert not any(attributes.get("id") in ("layers", "time") for _, attributes in page.elements)


@pytest.mark.parametrize("missing", [None, float("nan"), float("inf"), "absent"])
def test_what_was_not_measured_says_so(missing: Any, tmp_path: Path) -> None:
    data = sample()
    numbers = {
        key
        for key, value in data["points"][0].items()
        if isinstance(value, (int, float)) and not isinstance(value, bool)
    }
    for point in data["points"]:
        for key in numbers:
            point.pop(key, None)
            if missing != "absent":
                point[key] = missing
        point["verification"] = None
    _, page = drawn(data, tmp_path)
    assert (
        "size and latency not compared, for want of a measurement; loss of accuracy not measured" in page.text
    )
    cells = [
        attributes
        for tag, attributes in page.elements
        if tag == "td" and attributes.get("data-name") in ("Accuracy", "Loss", "Latency", "Size", "Memory")
    ]
    assert len(cells) == 5 * len(data["points"])
    assert all(cell["data-value"] == "" and cell["class"] == "missing" for cell in cells)
    for point in page.chart()["points"]:
        assert point["latency"] is point["size"] is point["memory"] is None
        assert point["test"] == point["validation"] == [None] * 3


def test_the_same_data_gives_the_same_file(tmp_path: Path) -> None:
    assert drawn(sample(), tmp_path)[0] == drawn(sample(), tmp_path)[0]


def test_palette_has_contrast() -> None:
    """WCAG 2 AA: 4.5 to 1 for every colour of text on every ground that it is set on."""
    css = (Path(__file__).parents[2] / "src/tenfold/report/templates/page.css").read_text(encoding="utf-8")
    themes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6});", block))
        for block in re.findall(r":root \{(.*?)\}", css, re.S)
    ]
    assert len(themes) == 2
    for theme in themes:
        for text in ("text", "muted", "accent", "best", "good", "bad", "baseline"):
            for ground in ("page", "surface"):
                assert _contrast(theme[text], theme[ground]) >= 4.5, (text, ground, theme)
        assert _contrast(theme["page"], theme["accent"]) >= 4.5  # the pressed button


def _contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else math.pow((c + 0.055) / 1.055, 2.4) for c in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    bright, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"schema": 2}, "schema 2"),
        ({"points": []}, "no points"),
        ({"points": [{"kind": "candidate"}]}, "has no id"),
        ({"points": [{"id": "a", "kind": "other"}]}, "'other'"),
        ({"points": [{"id": "a", "kind": "baseline", "latency_ms": "fast"}]}, "latency_ms must be a number"),
        ({"points": [{"id": "a", "kind": "baseline"}] * 2, "best": None, "original": "a"}, "two points"),
        ({"best": "c99"}, "'c99'"),
        ({"budget": [1]}, "budget must be a mapping"),
        ({"layers": {"before": [{"op": "conv2d"}]}}, "has no name"),
    ],
)
def test_data_of_another_shape_is_refused_by_name(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=re.escape(says)):
        write_report(sample() | change, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []
