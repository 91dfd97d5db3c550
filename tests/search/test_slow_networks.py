"""A network so slow that one run of it takes much of the time: nothing is begun that would not be done, and it is said.

No test here takes such time: what a forward pass takes is written into the run's folder, or the clock is one of the test.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tenfold
from tenfold.cost import Device
from tenfold.data import fashion_mnist
from tenfold.files import write_json
from tenfold.models import CifarResNet
from tenfold.search import Budget
from tenfold.search.candidates import candidates
from tenfold.search.clock import Clock
from tenfold.search.enough import more_time, seconds_ahead
from tenfold.search.frontier import BASELINES, ORIGINAL, PLAIN_INT8
from tenfold.search.job import Job
from tenfold.search.pace import forward_pace, original_pass
from tenfold.search.point import Point
from tenfold.search.probes import seen
from tenfold.search.proposals import Proposal, propose
from tenfold.search.shrinking import time_to_scan
from tenfold.search.space import Plan, Space
from tenfold.search.store import Store, identity_of
from tenfold.search.structures import MOST_MOVED, Structures, divergence, scan, scanned
from tenfold.training import View

SECONDS = {ORIGINAL: 20.0, PLAIN_INT8: 60.0, "onnx-int8-dynamic": 50.0, "eager": 30.0}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A run of four minutes whose baselines are written down, not made."""
    torch.manual_seed(0)
    splits = fashion_mnist()
    network = CifarResNet(8, num_classes=10, in_channels=1).eval()
    task = tenfold.Task(network, train=splits.train.take(100), validation=splits.validation.take(30))
    store = Store.open(tmp_path / "run", identity_of(task))
    for name, (label, precision) in BASELINES.items():
        point = Point(
            name, "baseline", label, precision, validation_drop=0.0, size_bytes=80_000, latency_ms=1.0,
            seconds=SECONDS[name], seconds_per_example=0.0,
        )  # fmt: skip
        (store.root / "points" / name).mkdir()
        write_json(store.root / "points" / name / "point.json", point.to_json())
    store.finish_step("probes", [])
    return Job(task, Budget(max_drop=0.05), Device(), "latency", store, Clock(240.0), seed=0)


def forward_takes(job: Job, seconds: float) -> None:
    job.store.finish_step("forward", {"seconds_per_example": seconds})


def never(*_: Any, **__: Any) -> Any:
    pytest.fail("begun, though there is no time for it")


def test_a_scan_begins_nothing_that_would_not_be_done_and_is_made_anew_with_more_time(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward_takes(job, 1.0)  # 100 s for the examples, of 12
    with monkeypatch.context() as patch:
        for name in ("block_sensitivity", "importance", "sample"):
            patch.setattr(f"tenfold.search.structures.{name}", never)
        structures = scan(job)
    assert structures is not None
    stored = job.store.step("scan")
    assert set(stored["unseen"]) == {*structures.blocks, *structures.space.groups}
    assert set(stored["blocks"].values()) == {1e9}
    assert set(stored["groups"].values()) == {math.log(2)}
    assert scanned(job) == stored
    longer = replace(job, clock=Clock(241.0))
    assert scanned(longer) is None
    assert time_to_scan(longer)
    ahead = seconds_ahead(longer, 241.0)
    job.store.finish_step(
        "front", [Proposal(Plan(), "int8", 1, 1, 1.0, 1.0, 1.0, 1, 0.0, 0.0, 0.0).to_json()]
    )
    assert seconds_ahead(longer, 241.0) == ahead  # it is no front of what the next scan will see
    forward_takes(job, 1e-9)
    assert scan(longer) is not None
    seen = job.store.step("scan")
    assert seen["unseen"] == []
    assert job.store.step("front") is None  # what the first scan made of guesses is found again
    assert max(seen["blocks"].values()) < 1e9
    assert scanned(replace(job, clock=Clock(1e9))) == seen


def test_answers_that_are_not_finite_are_moved_most_and_go_into_json(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted, classes = torch.zeros(2, 3), torch.tensor([0, 1])
    for value in (math.nan, math.inf):
        for targets in (classes, torch.zeros(2, 3)):
            assert divergence(wanted, torch.full((2, 3), value), targets) == MOST_MOVED
    assert divergence(wanted + 1, wanted + 3, torch.zeros(2, 3)) == pytest.approx(4.0)
    forward_takes(job, 1e-9)
    monkeypatch.setattr(
        "tenfold.search.structures.block_sensitivity",
        lambda model, task, blocks, run, examples: dict.fromkeys(blocks, math.nan),
    )
    assert scan(job) is not None
    stored = job.store.step("scan")
    assert set(stored["blocks"].values()) == {MOST_MOVED}
    assert stored["unseen"] == []


def test_no_probe_is_made_that_would_end_past_the_time_and_a_run_that_goes_on_makes_it(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    (job.store.root / "steps" / "probes.json").unlink()
    structures: Any = SimpleNamespace(count=lambda plan: job.original_profile())
    late = replace(
        job, clock=Clock(240.0, before=210.0)
    )  # 11 s are kept for the end, and the original took 20
    with monkeypatch.context() as patch:
        patch.setattr("tenfold.search.probes.made", never)
        assert len(seen(late, structures)) == 2
    entry = {"plan": Plan().to_json(), "precision": "fp32", "latency_ms": 1.0, "size_bytes": 1}
    monkeypatch.setattr("tenfold.search.probes.made", lambda *_: [entry])
    assert len(seen(job, structures)) == 3
    assert job.store.step("probes") == [entry]


def test_structures_are_run_only_where_the_last_shows_that_there_is_time(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenfold.search.proposals.TRIALS", 40)
    forward_takes(job, 1e-9)
    structures = scan(job)
    assert structures is not None
    ran: list[Plan] = []

    def run(self: Structures, plan: Plan) -> float:
        ran.append(plan)
        self.moved[plan] = 0.01
        return 100.0

    forward_takes(job, 1.0)
    with monkeypatch.context() as patch:
        patch.setattr(Structures, "run", never)
        found = candidates(job, structures)
    assert len(found) > 1
    assert job.store.step("front") is None  # of guesses alone: a run that goes on finds it again
    forward_takes(job, 1e-9)
    monkeypatch.setattr(Structures, "run", run)
    found = candidates(job, structures)
    assert len(ran) == 1
    assert {proposal.plan for proposal in found} <= {Plan(), ran[0]}
    assert [Proposal.from_json(data) for data in job.store.step("front")] == found


def test_a_proposal_that_would_not_be_done_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, judged = 0.0, []

    class Judge:
        minimize = "latency"

        def __call__(self, plan: Plan) -> Proposal:
            nonlocal now
            now += 10.0
            judged.append(plan)
            return Proposal(plan, "int8", 1, 1, 1.0, 1.0, 1.0, 1, 0.0, len(plan.blocks), 0.0)

    for module in ("pacing", "search.proposals"):
        monkeypatch.setattr(f"tenfold.{module}.time", SimpleNamespace(monotonic=lambda: now))
    space = Space({"a": tuple(f"a.{number}" for number in range(40))}, {})
    propose(space, Judge(), tmp_path / "study.journal", seed=0, seconds=35.0)  # type: ignore[arg-type]
    assert [plan.untouched for plan in judged] == [
        True,
        False,
        False,
        False,
    ]  # a fourth would be done at 40 s


@pytest.mark.parametrize(("forward", "examples"), [(1e-6, 16), (0.09, 6), (0.19, 3)])  # of 7.2 s
def test_the_pace_is_found_on_as_many_examples_as_there_is_time_for(
    job: Job, monkeypatch: pytest.MonkeyPatch, forward: float, examples: int
) -> None:
    asked: dict[str, Any] = {}

    def pace(model: Any, inputs: Any, **options: Any) -> tuple[None, float]:
        asked.update(options)
        return None, 0.5

    monkeypatch.setattr("tenfold.search.pace.precision_and_pace", pace)
    monkeypatch.setattr("tenfold.search.pace.time", SimpleNamespace(monotonic=lambda: 100.0))
    forward_takes(job, forward)
    place = torch.device("cpu")
    assert original_pass(job, place) == 50.0
    assert asked["examples"] == examples
    # Another arithmetic takes four steps, forward and back, of as many.
    assert asked["deadline"] == pytest.approx(100 + 7.2 - 12 * forward * examples)
    assert job.store.step("pace") == {"seconds_per_example": 0.5}


def test_the_pace_is_guessed_where_two_examples_are_too_many_and_not_kept(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenfold.search.pace.precision_and_pace", never)
    forward_takes(job, 0.4)
    assert original_pass(job, torch.device("cpu")) == pytest.approx(3 * 0.4 * 100)
    assert job.store.step("pace") is None


def test_the_pace_on_a_gpu_is_guessed_where_the_time_is_over_and_not_kept(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward_takes(job, 0.4)
    gpu, late = torch.device("cuda"), replace(job, clock=Clock(240.0, before=235.0), cache={})
    with monkeypatch.context() as patch:
        patch.setattr("tenfold.search.pace.pace_on_gpu", never)
        assert original_pass(late, gpu) == pytest.approx(3 * 0.4 * 100)
    assert job.store.step("pace-cuda") is None
    monkeypatch.setattr("tenfold.search.pace.pace_on_gpu", lambda task, place: 0.01)
    assert original_pass(job, gpu) == pytest.approx(0.01 * 100)
    assert job.store.step("pace-cuda") == {"seconds_per_example": 0.01}


def test_a_clock_that_is_too_coarse_for_a_forward_pass_gives_a_pace_all_the_same(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenfold.search.pace.time", SimpleNamespace(monotonic=lambda: 100.0))
    monkeypatch.setattr("tenfold.search.pace.precision_and_pace", lambda *_, **__: (None, 0.5))
    assert original_pass(job, torch.device("cpu")) == 50.0


def test_a_note_says_how_much_time_would_have_been_enough(job: Job) -> None:
    late = replace(job, clock=Clock(240.0, before=235.0), train_on=torch.device("cpu"))
    late.store.finish_step("pace", {"seconds_per_example": 0.2})  # 20 s for a pass
    (note,) = more_time(late)
    assert "the baselines took 2 min 40 s of 4 min;" in note

    def enough(passes: float, measuring: float, share: float) -> float:
        # Of half the size, taught by the whole: the teacher answers in each view once.
        training = (10 * passes + 20 / 3 * min(passes, len(View))) / 0.9
        # Spent; the end of this run (3% of 240 s); tracing; cutting, fp32 and INT8; the next end; and the shares that
        # grow with the time: the scan's two, proposals, runs, and the measuring where it is not at its most.
        return (235 + 7.2 + 20 + 3 + 20 + 60 + 4 + training + measuring) / (
            1 - 2 * 0.05 - 0.04 - 0.03 - share
        )

    begun, healed = enough(0.5, 0, 0.03), enough(12, 0, 0.03)
    assert begun < healed < 1000  # so measuring is not at its most
    assert f"--time {math.ceil(begun / 60)}m would have been enough to begin" in note
    assert f"--time {math.ceil(healed / 60)}m to train it for 12 passes" in note
    late.store.finish_step("pace", {"seconds_per_example": 1e-5})
    (note,) = more_time(late)
    assert "to begin with one of half the size, and to train it for 12 passes over the data" in note


def test_no_note_where_more_time_would_not_help(job: Job) -> None:
    late = replace(job, clock=Clock(240.0, before=235.0), train_on=torch.device("cpu"))
    late.store.finish_step("pace", {"seconds_per_example": 0.2})
    for name, value in [("failed-pruning", "cannot be traced"), ("finalist-c1", {"error": "no"})]:
        assert len(more_time(late)) == 1
        late.store.finish_step(name, value)
        assert more_time(late) == []
        (late.store.root / "steps" / f"{name}.json").unlink()
    assert (
        more_time(replace(late, clock=Clock(1000.0, before=100.0))) == []
    )  # there was time, and nothing worth it


@pytest.mark.parametrize(("single", "asked"), [(3.0, [1]), (0.3, [1, 8]), (1e-4, [1, 16, 16, 16])])
def test_a_forward_pass_is_timed_on_as_many_examples_as_there_is_time_for(
    job: Job, monkeypatch: pytest.MonkeyPatch, single: float, asked: list[int]
) -> None:
    numbers: list[int] = []

    now = 100.0

    def seconds(task: tenfold.Task, examples: int) -> float:
        nonlocal now
        numbers.append(examples)
        # The machine is busy in the first pass of many, which the others are not counted by.
        taken = single * math.sqrt(examples) * (1.5 if numbers == [1, 16] else 1.0)
        now += taken
        return taken

    monkeypatch.setattr("tenfold.search.pace.time", SimpleNamespace(monotonic=lambda: now))
    monkeypatch.setattr("tenfold.search.pace.forward_seconds", seconds)  # 2.4 s are allowed
    assert forward_pace(job) == pytest.approx(single / math.sqrt(asked[-1]))
    assert forward_pace(job) == job.store.step("forward")["seconds_per_example"]
    assert numbers == asked
