"""The whole job on a small network and a few real images: what is on disk, and what a second call does."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import tenfold
from tenfold.compress import Run
from tenfold.compress.quantize import Nearest, PerChannel, QuantizeWeights
from tenfold.data import fashion_mnist
from tenfold.errors import BudgetError, NetworkError, OutputError, TenfoldWarning
from tenfold.models import CifarResNet
from tenfold.training import training_place
from tenfold.training.result import device_name

LIMIT = 30.0  # the baselines of a slow machine fit too


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    splits = fashion_mnist()
    network = CifarResNet(8, num_classes=10, in_channels=1)
    return tenfold.Task(
        network.eval(),
        train=splits.train.take(200),
        validation=splits.validation.take(100),
        test=splits.test.take(100),
    )


@pytest.fixture(scope="module")
def run(task, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "a"
    return out, tenfold.shrink(task, None, out=out, time_limit=LIMIT)


def test_the_folder_holds_what_is_promised(run):
    out, frontier = run
    data = json.loads((out / "frontier.json").read_text())
    ids = {point["id"] for point in data["points"]}
    assert {"eager", "onnx-fp32", "onnx-int8-static", "onnx-int8-dynamic"} <= ids
    assert data["best"] == frontier.best_id
    assert data["feasible"] is True
    assert data["provenance"]["train_on"] == device_name(training_place())
    for point in data["points"]:
        files = [path for path in (out / point["artifact"]).iterdir() if path.suffix == ".onnx"]
        assert point["id"] == "eager" or files[0].stat().st_size == point["size_bytes"]
        assert point["latency_ms"] > 0
        assert point["peak_memory_bytes"] > 1_000_000
    assert (out / "report.html").stat().st_size > 1_000_000
    assert sorted(path.name for path in (out / "best").iterdir()) == [
        "model.onnx",
        "recipe.yaml",
        "structure.json",
        "weights.safetensors",
    ]


def test_the_best_network_loads_and_answers_as_its_export(run, task):
    out, frontier = run
    inputs = task.example(8)
    loaded = tenfold.load(out / "best", base=lambda: task.model)
    with torch.inference_mode():
        assert torch.equal(loaded(inputs).argmax(1), frontier.best.artifact.run(inputs).argmax(1))


def test_a_second_call_makes_nothing_again(run, task):
    out, _ = run
    before = {path: path.stat().st_mtime_ns for path in out.glob("points/*/*.onnx")}
    again = tenfold.shrink(task, None, out=out, time_limit=LIMIT, report=stop_early)  # nothing is begun
    assert again.to_json() == json.loads((out / "frontier.json").read_text())
    assert {path: path.stat().st_mtime_ns for path in out.glob("points/*/*.onnx")} == before


def test_a_finished_run_goes_on_with_more_time(run, task):
    with pytest.raises(StopEarly):
        tenfold.shrink(task, None, out=run[0], time_limit=2 * LIMIT, report=stop_early)


def test_another_metric_is_another_run(run, task):
    other = tenfold.Task(task.model, task.train, task.validation, task.test, metric=lambda o, t: 0.5)
    with pytest.raises(OutputError, match="different metric"):
        tenfold.shrink(other, None, out=run[0], time_limit=LIMIT)


def test_another_run_is_refused_before_any_work(run, task):
    out, _ = run
    with pytest.raises(OutputError, match="another run"):
        tenfold.shrink(task, tenfold.Budget(size_mb=1), out=out, time_limit=LIMIT)


def test_wrong_arguments_are_refused(task, tmp_path):
    with pytest.raises(BudgetError, match="minimize"):
        tenfold.shrink(task, out=tmp_path / "x", minimize="speed")
    with pytest.raises(BudgetError, match="time limit"):
        tenfold.shrink(task, out=tmp_path / "x", time_limit=1)
    quantised = QuantizeWeights(4, PerChannel(), rounding=Nearest()).apply(task.model, task, Run()).model
    with pytest.raises(NetworkError, match="the network is quantised already"):
        tenfold.shrink(replace(task, model=quantised), out=tmp_path / "x")
    with pytest.raises(BudgetError, match="time_limit is a number of seconds, not '5m'"):
        tenfold.shrink(task, out=tmp_path / "x", time_limit="5m")  # type: ignore[arg-type]
    assert not (tmp_path / "x").exists()


def test_a_small_validation_set_is_told_before_the_search(task, tmp_path):
    with (
        pytest.warns(
            TenfoldWarning, match=r"100 examples is small for a max_drop of 0\.5 points.*3,074 examples"
        ),
        pytest.raises(StopEarly),
    ):
        tenfold.shrink(task, tenfold.Budget(max_drop=0.005), out=tmp_path / "a", report=stop_early)


class StopEarly(Exception):
    """Raised by the first report, when the search has begun."""


def stop_early(phase, fraction, text):
    raise StopEarly
