"""The page and the picture of a profile: well formed, offline, escaped, and drawn in a browser where there is one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from profile_times import CPU, timed
from test_frontier_report import Page
from test_report_in_browser import BROWSER, rendered
from torch import nn

from tenfold.cost import profile
from tenfold.errors import OutputError
from tenfold.report import Roofs, Times, View, roofline_plot, view, wording, write_profile

EVIL = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


def network(width: int = 8, blocks: int = 3) -> nn.Module:
    body = [nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.ReLU()) for _ in range(blocks)]
    return nn.Sequential(nn.Conv2d(3, width, 3), *body, nn.Flatten(), nn.Linear(width * 196, 10))


def viewed(name: str = "a network", roofs: Roofs | None = CPU, **shape: int) -> View:
    return timed(profile(network(**shape), torch.empty(1, 3, 16, 16)), name, roofs)


def page_of(views: list[View], tmp_path: Path, roofs: Roofs | None = CPU) -> tuple[str, Page, dict[str, Any]]:
    path = tmp_path / "profile.html"
    write_profile(views, path, roofs, {"command": "tenfold profile x"})
    html = path.read_text(encoding="utf-8")
    page = Page(html)
    data = next(json.loads(text) for attrs, text in page.scripts if attrs.get("id") == "profile-data")
    return html, page, data


CASES = {
    "device": ([viewed()], CPU),
    "no device": ([viewed(roofs=None)], None),
    "two": ([viewed("a"), viewed("b", width=16)], CPU),
    "two, no device": ([viewed("a", None), viewed("b", None, blocks=1)], None),
}


@pytest.mark.parametrize("case", CASES)
def test_page_is_well_formed_and_needs_no_network(case: str, tmp_path: Path) -> None:
    views, roofs = CASES[case]
    html, page, data = page_of(views, tmp_path, roofs)
    for tag, attributes in page.elements:
        assert "src" not in attributes, f"<{tag}> would fetch something"
        href = attributes.get("href")
        assert href is None or href.startswith("#") or href == "data:,"
    assert "http" not in html[html.index("<style>") : html.index("</style>")]
    links = {str(a["href"])[1:] for t, a in page.elements if t == "a"}
    assert links <= {a.get("id") for _, a in page.elements}
    assert [len(v["layers"]) for v in data["views"]] == [len(v.layers) for v in views]
    rows = sum(1 for tag, a in page.elements if tag == "th" and a.get("scope") == "row" and "data-value" in a)
    assert rows == sum(len(v.layers) for v in views)


def test_page_tells_a_limit_from_a_prediction(tmp_path: Path) -> None:
    one = viewed()
    _, page, data = page_of([one], tmp_path)
    assert f"at least {wording.milliseconds(one.ms)}" in page.text
    assert "no run beats" in page.text
    assert "a paper" in page.text
    assert data["roofs"]["peaks"][0] == {"name": "fp32", "rate": 64e9, "main": True}
    assert sum(point["ms"] for point in data["views"][0]["points"]) == pytest.approx(one.ms)
    assert sum(point["count"] for point in data["views"][0]["points"]) == len(one.layers)


def test_page_of_a_prediction(tmp_path: Path) -> None:
    counted = profile(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU()), torch.empty(1, 3, 16, 16))
    one = view(counted, "x", Times((2.0, 0.0), ("memory", "fused"), 2.5, 2.0, 3.0, "predicted"))
    _, page, _ = page_of([one], tmp_path)
    assert "x: 2.50 ms on a CPU" in page.text
    assert "predicted, in fp32; 90% interval 2.00 to 3.00" in page.text
    assert "Of the time: 100% bound by memory." in page.text
    assert "Layers without a mark: 1 run within another's kernel." in page.text
    assert "at least" not in page.text
    roofline_plot([one], tmp_path / "a.png", CPU)


def test_page_without_a_device_claims_no_time(tmp_path: Path) -> None:
    _, page, data = page_of([viewed(roofs=None)], tmp_path, None)
    assert data["roofs"] is None
    assert not re.search(r"\d ms|\d µs|Latency|Roofline", page.text)


def test_stages_add_up_and_those_of_one_network_stay_apart(tmp_path: Path) -> None:
    from tenfold.report.profile_report import stages

    small, large = viewed("small", blocks=1), viewed("large", blocks=12)
    assert {row["name"] for row in stages([large])} == {str(n) for n in (*range(13), 14)}
    rows = {row["name"]: row["bars"]["params"] for row in stages([small, large])}
    assert rows["1"]["before_text"] == rows["1"]["after_text"] == "584"
    assert rows["9"]["before_text"] == ""
    assert rows["9"]["after_text"] == "584"


def test_what_is_unknown_is_named(tmp_path: Path) -> None:
    from dataclasses import replace

    _, page, _ = page_of([replace(viewed(), unknown=("mine::scan",))], tmp_path)
    assert "Not counted: the arithmetic of mine::scan" in page.text.replace("  ", " ")


def test_three_networks_or_none_are_refused(tmp_path: Path) -> None:
    for views in ([], [viewed()] * 3, [view(profile(nn.Identity(), torch.empty(1)), "nothing")]):
        with pytest.raises(OutputError, match="one network or two"):
            write_profile(views, tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the path")
@pytest.mark.parametrize("case", ["device", "two, no device"])
def test_charts_are_drawn(case: str, tmp_path: Path) -> None:
    views, roofs = CASES[case]
    write_profile(views, tmp_path / "profile.html", roofs)
    html = rendered(tmp_path / "profile.html")
    charts = re.findall(r'id="(\w+)-chart"[^>]*js-plotly-plot|class="chart bars-chart js-plotly-plot', html)
    assert len(charts) == 2 + len(views)
    from tenfold.report.profile_view import alike

    marks = sum(group.layers[0].flops > 0 for one in views for group in alike(one.layers))
    # One mark for each point, and one at the peak of memory of each network.
    assert len(re.findall(r'<path class="point[ "]', html)) == marks + len(views)


@pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the path")
def test_nothing_from_the_data_runs(tmp_path: Path) -> None:
    from dataclasses import replace

    one = viewed(EVIL)
    one = replace(one, layers=tuple(replace(layer, name=EVIL, op=EVIL) for layer in one.layers))
    write_profile([one], tmp_path / "profile.html", CPU)
    html = rendered(tmp_path / "profile.html")
    assert "<title>owned" not in html
    assert "<img" not in html
    assert 'id="roofline-chart" class="chart js-plotly-plot"' in html


@pytest.mark.parametrize("ending", ["png", "svg"])
@pytest.mark.parametrize("case", CASES)
def test_still_picture(case: str, ending: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    views, roofs = CASES[case]
    path = tmp_path / f"roofline.{ending}"
    roofline_plot(views, path, roofs)
    start = path.read_bytes()[:8]
    assert start == b"\x89PNG\r\n\x1a\n" if ending == "png" else start.startswith(b"<?xml")
    assert len(list(tmp_path.iterdir())) == 1


def test_still_picture_names_its_roofs_and_its_heaviest_layer(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    roofline_plot([viewed()], tmp_path / "a.svg", CPU)
    text = (tmp_path / "a.svg").read_text(encoding="utf-8")
    # matplotlib draws text as paths, and leaves the words as comments.
    said = re.findall(r"<!-- (.*?) -->", text)
    for words in ("fp32 64 GFLOP/s", "int8 128 GFLOP/s", "DRAM 16 GB/s", "a CPU"):
        assert words in said
    roofline_plot([viewed()], tmp_path / "b.svg", CPU)
    assert (tmp_path / "b.svg").read_text(encoding="utf-8") == text


def test_still_picture_needs_something_to_draw(tmp_path: Path) -> None:
    idle = view(profile(nn.Identity(), torch.empty(1)), "nothing")
    with pytest.raises(OutputError, match="no layer does any arithmetic"):
        roofline_plot([idle], tmp_path / "a.png")
    with pytest.raises(OutputError, match=r"must be \.png, \.svg or \.pdf"):
        roofline_plot([viewed()], tmp_path / "a.gif")
