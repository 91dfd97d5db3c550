"""The report in a real browser, where there is one: the chart is drawn, and what slips into the page does not run."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from frontier_sample import infeasible, no_budget, one_candidate, sample

from tenfold.report import write_report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Chromium on the path")
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update --disable-sync"


def dom(data: dict[str, Any], tmp_path: Path) -> str:
    """The page of `data` after its scripts have run, less their text."""
    path = tmp_path / "report.html"
    write_report(data, path)
    return rendered(path)


def rendered(path: Path) -> str:
    """The HTML of a page after its scripts have run, less their text."""
    command = [
        str(BROWSER),
        *FLAGS.split(),
        f"--user-data-dir={path.parent / 'profile'}",
        "--virtual-time-budget=4000",
        "--dump-dom",
        path.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return re.sub(r"(<script[^>]*>).*?(</script>)", r"\1\2", done.stdout, flags=re.S)


@pytest.mark.parametrize("make", [sample, infeasible, no_budget, one_candidate])
def test_chart_is_drawn_with_every_point(make: Any, tmp_path: Path) -> None:
    data = make()
    html = dom(data, tmp_path)
    assert html.count('class="main-svg"') >= 2
    scored = "validation_score" if make is one_candidate else "score"
    shown = sum(point[scored] is not None and point["latency_ms"] is not None for point in data["points"])
    # One mark for each point, and the ring about the chosen one.
    assert len(re.findall(r'<path class="point[ "]', html)) == shown + 1
    assert re.findall(r'<article data-point="([^"]+)">', html) == [data["best"]]
    assert 'aria-pressed="true">Latency</button>' in html


def test_nothing_from_the_data_runs(tmp_path: Path) -> None:
    data = sample()
    evil = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"><a href='http://localhost:9'>x</a>"
    for point in data["points"]:
        point["label"] = point["recipe_text"] = point["note"] = evil
    data["points"][6]["id"] = data["best"] = evil  # drawn as a name in the chart, too
    data["metric"] = evil
    html = dom(data, tmp_path)
    assert html.count('class="main-svg"') >= 2
    assert "<title>owned" not in html
    assert "<img" not in html
    assert 'href="http' not in html
    assert 'xlink:href="http' not in html
