"""A time limit that is shorter than the baselines take: what is made all the same, what is left out, and what is said."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

import tenfold
from tenfold.compress import Run
from tenfold.compress.quantize import Mode, Quantize
from tenfold.cost import Device
from tenfold.data import fashion_mnist
from tenfold.errors import OutOfTime
from tenfold.models import CifarResNet
from tenfold.search import Budget
from tenfold.search.baselines import add_baselines
from tenfold.search.clock import Clock
from tenfold.search.finish import finish, seconds_needed
from tenfold.search.frontier import BASELINES, ORIGINAL
from tenfold.search.job import Job
from tenfold.search.shrinking import time_to_scan
from tenfold.search.store import Store, identity_of


@pytest.fixture(scope="module")
def task() -> tenfold.Task:
    torch.manual_seed(0)
    splits = fashion_mnist()
    network = CifarResNet(8, num_classes=10, in_channels=1).eval()
    return tenfold.Task(network, train=splits.train.take(40), validation=splits.validation.take(30))


def job_for(task: tenfold.Task, folder: Path, limit: float) -> Job:
    return Job(
        task, Budget(), Device(), "latency", Store.open(folder, identity_of(task)), Clock(limit), seed=0
    )


def test_only_the_original_is_made_when_the_time_is_over_and_more_time_makes_the_rest(
    task: tenfold.Task, tmp_path: Path
) -> None:
    short = job_for(task, tmp_path / "run", 0.5)
    assert add_baselines(short) == {}
    assert [point.id for point in short.store.points()] == [ORIGINAL]
    frontier = finish(short, {})
    assert frontier.best_id == ORIGINAL
    notes = frontier.sections["notes"]
    assert [note.split()[0] for note in notes] == [name for name in BASELINES if name != ORIGINAL]
    assert all("there was no time" in note for note in notes)
    long = job_for(task, tmp_path / "run", 600.0)
    assert add_baselines(long) == {}
    assert {point.id for point in long.store.points()} == set(BASELINES)
    # No scan is begun that nothing could follow: it may take 60 s here, and more.
    assert time_to_scan(long)
    long.clock = Clock(600.0, before=600.0 - seconds_needed(long) - 60.0)
    assert not time_to_scan(long)
    long.store.finish_step("scan", {"blocks": {}, "groups": {}})  # made by an earlier run: it takes no time
    assert time_to_scan(long)


def test_nothing_is_searched_for_before_plain_int8_is_known(
    task: tenfold.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenfold.search.baselines.seconds_for_more", lambda job: 0.0)
    frontier = tenfold.shrink(task, Budget(size_mb=0.01), out=tmp_path / "run", time_limit=60.0)
    assert [point.id for point in frontier.points] == [ORIGINAL]
    assert "There was no time for onnx-int8-static, onnx-int8-dynamic, eager" in frontier.message
    # What a search had judged by fp32 alone would be kept, and be wrong once there is more time.
    assert not {"scan", "probes", "front"} & {path.stem for path in (tmp_path / "run" / "steps").iterdir()}


@pytest.mark.parametrize(
    ("technique", "work"),
    [
        (Quantize(), "calibrating"),
        (Quantize(mode=Mode.DYNAMIC), "tracing and calibrating"),
    ],
)
def test_quantising_stops_at_the_deadline(task: tenfold.Task, technique: Quantize, work: str) -> None:
    with pytest.raises(OutOfTime, match=f"before the end of quantize: {work}"):
        technique.apply(task.model, task, Run(deadline=time.monotonic() - 1))


def test_bias_correction_stops_at_the_deadline(task: tenfold.Task) -> None:
    seen: list[str] = []

    class Ending(Run):
        """A run whose time is over as soon as biases are corrected."""

        def seconds_left(self) -> float:
            return -1.0 if "quantize: correcting biases" in seen else 1.0

    with pytest.raises(OutOfTime, match=r"^the time was over before the end of quantize: correcting biases$"):
        Quantize().apply(task.model, task, Ending(progress=lambda share, text: seen.append(text)))
