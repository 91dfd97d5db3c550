"""Data and metrics from a factory of the user's, in the current folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tenfold.data import METRICS, load_data, load_metric, task_from
from tenfold.errors import DataError, MetricError, NetworkError
from tenfold.naming import called, find

CODE = """
import torch
from tenfold.data import Splits, Task, Split
x, y = torch.arange(20.).view(20, 1), torch.arange(20) % 2
NUMBER = 3
def pair(): return x, y
def two(): return (x, y), (x[:4], y[:4])
def three(): return (x, y), None, Split((x[:4], y[:4]))
def mapping(): return {"train": (x, y), "val": (x[:6], y[:6]), "classes": ["a", "b"]}
def splits(): return Splits((x, y), (x[:5], y[:5]))
def task(): return Task(torch.nn.Linear(1, 2), (x, y), (x[:7], y[:7]), metric=score)
def dataset(): return [(torch.zeros(1), i % 2) for i in range(20)] and torch.utils.data.TensorDataset(x, y)
def odd(): return {"train": (x, y), "tset": (x, y)}
def trainless(): return {"test": (x, y)}
def nothing(): return None
def uneven(): return {"train": (x, y[:3])}
def broken(): raise ValueError("no such disk\\nsecond line")
def leaves(): raise SystemExit("bye")
def score(outputs, targets): return float(outputs.mean())
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "my_data.py").write_text(CODE)
    (tmp_path / "half_done.py").write_text("import no_such_package\n")
    (tmp_path / "raising.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield tmp_path
    for name in ("my_data", "half_done", "raising"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("pair", [12, 4, 4]),
        ("dataset", [12, 4, 4]),
        ("two", [20, 4, None]),
        ("three", [20, None, 4]),
        ("mapping", [20, 6, None]),
        ("splits", [20, 5, None]),
        ("task", [20, 7, None]),
    ],
)
def test_what_a_factory_may_return(name: str, sizes: list[int | None]) -> None:
    splits = load_data(f"my_data:{name}")
    found = [None if s is None else len(s) for s in (splits.train, splits.validation, splits.test)]
    assert found == sizes
    assert splits.classes == (("a", "b") if name == "mapping" else ())


def test_the_metric_of_a_task_is_kept_unless_another_is_given() -> None:
    splits = load_data("my_data:task")
    model = torch.nn.Linear(1, 2)
    assert task_from(model, splits).metric.__name__ == "score"  # type: ignore[union-attr]
    assert task_from(model, splits, "accuracy").metric is METRICS["accuracy"]
    assert task_from(model, load_data("my_data:two")).metric is METRICS["accuracy"]
    assert task_from(model, load_data("my_data:two"), "my_data:score", base="zoo:x").base == "zoo:x"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("my_data:broken", "factory my_data:broken raised ValueError: no such disk$"),
        ("my_data:leaves", "factory my_data:leaves raised SystemExit: bye"),
        ("my_data:piar", r"my_data has no 'piar'; did you mean 'pair'\?"),
        ("my_dta:pair", r"no module 'my_dta'; did you mean 'my_data'"),
        ("tenfold.dat:x", r"no module 'tenfold\.dat'; did you mean 'tenfold\.data'"),
        ("my_data:NUMBER", "is a int; name a function"),
        ("my_data:odd", r"factory my_data:odd: unknown key 'tset'; did you mean 'test'"),
        ("my_data:trainless", "has no key 'train'"),
        ("my_data:nothing", "factory my_data:nothing returned NoneType: return a Task"),
        ("my_data:uneven", "factory my_data:uneven: train: 20 examples but 3 targets"),
        ("half_done:x", "importing half_done failed: it needs the module 'no_such_package'"),
        ("raising:x", "importing raising raised ZeroDivisionError"),
        ("my_data.py", "is a file but not an .npz"),
        ("nowhere/at/all", r"does not exist \(nor does the folder nowhere/at\)"),
        ("my_data", "does not exist.*data is a folder of class folders"),
    ],
)
def test_faults_are_named(spec: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_data(spec)


def test_the_cause_is_kept() -> None:
    with pytest.raises(DataError) as caught:
        load_data("my_data:broken")
    assert isinstance(caught.value.__cause__, ValueError)


def test_options_of_folders_are_not_for_factories() -> None:
    with pytest.raises(DataError, match="image_size is not for a factory"):
        load_data("my_data:pair", image_size=32)


def test_metrics_by_name() -> None:
    assert load_metric("accuracy") is METRICS["accuracy"]
    assert load_metric("my_data:score")(torch.ones(2), torch.ones(2)) == 1
    assert load_metric(max) is max  # type: ignore[comparison-overlap, arg-type]
    with pytest.raises(MetricError, match=r"unknown metric 'acuracy'; did you mean 'accuracy'"):
        load_metric("acuracy")
    with pytest.raises(MetricError, match=r"my_data has no 'scor'; did you mean 'score'"):
        load_metric("my_data:scor")
    with pytest.raises(MetricError, match="is a int, not a function"):
        load_metric("my_data:NUMBER")


def test_the_callers_error_is_raised() -> None:
    with pytest.raises(NetworkError, match=r"not of the form package\.module:name"):
        find("just words", NetworkError)
    with pytest.raises(NetworkError, match="raised ValueError"):
        called("my_data:broken", NetworkError)
