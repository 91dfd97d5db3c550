"""Points that are the same file: which one stands, what it shares, and that the other is neither starred nor compared."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

import tenfold
from tenfold.compress import Recipe
from tenfold.compress.quantize import Quantize
from tenfold.cost import Device
from tenfold.deploy import Artifact, Precision
from tenfold.report import frontier_table
from tenfold.report.frontier_report import chart_data
from tenfold.report.schema import completed
from tenfold.search import Budget
from tenfold.search.baselines import add_baselines
from tenfold.search.clock import Clock
from tenfold.search.finish import finish
from tenfold.search.frontier import BASELINES, ORIGINAL, PLAIN_INT8, choose, dominates, mark, nearest
from tenfold.search.job import Job
from tenfold.search.point import Point
from tenfold.search.recipes import add_recipes
from tenfold.search.roster import enrolled, named
from tenfold.search.store import Store
from tenfold.search.twins import find_twins, share_figures


def written(folder: Path, contents: dict[str, bytes]) -> dict[str, Artifact]:
    found = {}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
        found[name] = Artifact("onnxruntime", (folder / name,), Precision.FLOAT32)
    return found


def test_the_earlier_of_equal_files_stands_and_a_baseline_counts_as_earlier(tmp_path: Path) -> None:
    files = written(
        tmp_path, {"r1": b"ab", ORIGINAL: b"xy", "c1": b"ba", "b": b"ab", "c2": b"ba", "c3": b"bab"}
    )
    points = [Point(name, "baseline" if name in ("b", ORIGINAL) else "candidate", name) for name in files]
    points[0].same_as = "gone"  # of an earlier end
    standing = find_twins(points, lambda point: files[point.id])
    assert {point.id: point.same_as for point in points if point.same_as} == {"r1": "b", "c2": "c1"}
    assert [point.id for point in standing] == [ORIGINAL, "c1", "b", "c3"]
    eager = Artifact("torch", files["b"].paths, Precision.FLOAT32)
    assert (
        len(find_twins(points[3:4] + points[5:], lambda point: eager if point.id == "b" else files["b"])) == 2
    )


def test_a_twin_has_the_figures_of_the_other_and_cannot_win_by_noise() -> None:
    first = Point("a", "baseline", "a", latency_ms=1.0, size_bytes=10)
    twin = Point(
        "b", "candidate", "b", latency_ms=0.5, size_bytes=10, validation_drop=0.0, validation_drop_high=0.0,
        same_as="a",
    )  # fmt: skip
    other = Point(
        "c", "candidate", "c", latency_ms=0.9, size_bytes=12, validation_drop=0.0, validation_drop_high=0.0
    )
    assert dominates(twin, first)
    points = [first, twin, other]
    share_figures(points)
    assert (first.latency_ms, first.validation_drop) == (
        1.0,
        0.0,
    )  # what only the other had is shared as well
    assert (twin.latency_ms, twin.validation_drop) == (1.0, 0.0)
    mark(points, Budget())
    assert [point.on_frontier for point in points] == [True, False, True]
    assert twin.note == "the same file as a"
    assert choose(points, Budget(), "size") is first
    assert nearest([twin, first], Budget(size_mb=1e-9))[0] is first
    # Nothing is held against what is not there twice: a twin that was luckier would have cleared the frontier.
    twin.latency_ms, twin.size_bytes = 0.1, 1
    mark(points, Budget())
    assert [point.on_frontier for point in points] == [True, False, True]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """A run with two baselines, and a recipe that says what one of them does."""
    monkeypatch.setattr("tenfold.search.job.peak_memory", lambda *_: 1)
    monkeypatch.setattr("tenfold.search.finish.measure_seconds", lambda job: 0.2)
    few = {name: BASELINES[name] for name in (ORIGINAL, PLAIN_INT8)}
    monkeypatch.setattr("tenfold.search.baselines.BASELINES", few)
    torch.manual_seed(0)
    splits = tenfold.data.fashion_mnist()
    network = nn.Sequential(nn.Conv2d(1, 4, 3, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 10)).eval()
    task = tenfold.Task(network, splits.train.take(40), splits.validation.take(30), splits.test.take(20))
    store = Store.open(tmp_path / "run", {})
    job = Job(
        task, Budget(), Device(), "latency", store, Clock(600.0), seed=0,
        recipes=enrolled(store, named([Recipe((Quantize(),))])),
    )  # fmt: skip
    add_baselines(job)
    add_recipes(job)
    return job


def test_a_recipe_that_makes_the_file_of_a_baseline_is_shown_as_that(job: Job) -> None:
    frontier = finish(job, {})
    plain, mine = frontier[PLAIN_INT8], frontier["r1-quantize"]
    assert (plain.same_as, mine.same_as, mine.on_frontier) == (None, PLAIN_INT8, False)
    assert (mine.latency_ms, mine.runs, mine.score, mine.drop_high) == (
        plain.latency_ms, plain.runs, plain.score, plain.drop_high,
    )  # fmt: skip
    assert plain.score is not None
    assert not (job.store.root / "points" / mine.id / "test.safetensors").exists()  # asked once
    assert frontier.best_id != mine.id
    data = frontier.to_json()
    assert next(row for row in data["points"] if row["id"] == mine.id)["same_as"] == PLAIN_INT8
    assert mine.id not in [row["id"] for row in chart_data(completed(data))["points"]]
    assert f"{mine.id} is the same file as {PLAIN_INT8}" in str(frontier_table(data).caption)
    page = (job.store.root / "report.html").read_text()
    assert page.count(f'<p class="note">the same file as {PLAIN_INT8}</p>') == 1
    # A run that goes on finds it anew: where it is another file by then, it stands for itself.
    original = job.store.root / "points" / ORIGINAL / "model.onnx"
    shutil.copyfile(original, job.store.root / "points" / PLAIN_INT8 / "model.onnx")
    again = finish(job, {})
    assert (again[PLAIN_INT8].same_as, again[mine.id].same_as) == (ORIGINAL, None)
