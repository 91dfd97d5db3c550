"""Other forms of the untouched and of a healed network: which are worth it, and what is made of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import tenfold
from tenfold.compress import read_recipe
from tenfold.cost import Device
from tenfold.data import fashion_mnist
from tenfold.errors import OutOfTime, OutputError
from tenfold.models import CifarResNet
from tenfold.search import Budget
from tenfold.search.baselines import add_baselines
from tenfold.search.clock import Clock
from tenfold.search.finalist import add_finalist, cut, keep, recalled, served_as
from tenfold.search.finish import finish
from tenfold.search.frontier import ORIGINAL
from tenfold.search.job import Job
from tenfold.search.packed import PACKED, bits_for
from tenfold.search.point import Point
from tenfold.search.proposals import Proposal
from tenfold.search.space import Plan
from tenfold.search.store import Store, identity_of
from tenfold.search.structures import scan
from tenfold.search.variants import (
    UNTOUCHED,
    VARIANTS,
    Forms,
    add_variant,
    add_variants,
    add_what_may_do,
    bases,
    for_speed_and_size,
    integers_are_too_large,
    plain_forms,
    seconds_for,
    seconds_kept,
    wanted,
    where_integers_cost,
)

NARROW = Plan(keep=(("layer1.0.conv1", 0.5), ("layer2.0.conv1", 0.5)))


def quietly(fraction: float, text: str) -> None:
    """Progress that nobody reads."""


def job_for(folder: Path, budget: Budget, minimize: str = "latency") -> Job:
    torch.manual_seed(0)
    splits = fashion_mnist()
    network = CifarResNet(8, num_classes=10, in_channels=1).eval()
    task = tenfold.Task(network, train=splits.train.take(40), validation=splits.validation.take(30))
    store = Store.open(folder, identity_of(task))
    return Job(task, budget, Device(), minimize, store, Clock(600.0), seed=0)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    """With baselines and one finalist, that was cut and not healed."""
    job = job_for(tmp_path_factory.mktemp("variants") / "run", Budget())
    add_baselines(job)
    proposal = Proposal(NARROW, "int8", 1, 1, 1.0, 1.0, 1.0, 1, 0.1, 0.1, 0.0)
    healed = cut(job, proposal, quietly)
    keep(job, "c1", healed)
    add_finalist(job, "c1", healed, proposal, 0.0, quietly)
    return job


def test_what_was_kept_is_the_network_that_was_healed(job: Job) -> None:
    back = recalled(job, "c1")
    assert back is not None
    again = cut(job, Proposal(NARROW, "int8", 1, 1, 1.0, 1.0, 1.0, 1, 0.1, 0.1, 0.0), quietly)
    ours, theirs = back.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert [step.technique for step in back.steps] == [step.technique for step in again.steps]
    assert recalled(job, "c9") is None


def test_the_forms_of_what_is_best_so_far_come_first(job: Job) -> None:
    """An unhealed cut loses far more than the tolerance, and the untouched network nothing."""
    size = min(point.size_bytes for point in job.store.points() if point.finalist == "c1") / 1e6
    for budget, names in (
        (Budget(max_drop=0.01), [UNTOUCHED, "c1"]),
        (Budget(size_mb=size), ["c1", UNTOUCHED]),
    ):
        assert [forms.name for forms in bases(replace(job, budget=budget))] == names


def test_without_a_budget_variants_stand_on_the_frontier(job: Job) -> None:
    assert {"int4-weights", "low-rank"} <= set(wanted(job, plain_forms(job)))
    assert 0 < seconds_kept(job) <= 150
    assert job.store.spent() > 0  # written down after each baseline
    add_variants(job)
    points = {point.id: point for point in job.store.points()}
    plain, small = points[ORIGINAL], points["o-int4-weights"]
    assert small.kind == "candidate"
    assert small.finalist == UNTOUCHED
    assert small.label == "untouched, 4-bit weights"
    recipe = read_recipe(job.store.root / small.recipe)
    assert [type(step).__name__ for step in recipe.steps] == ["QuantizeWeights"]
    assert (small.params, small.macs) == (plain.params, plain.macs)
    assert small.size_bytes < 0.4 * plain.size_bytes  # codes in the file, beside what is not weights
    thin = points["o-low-rank"]
    assert thin.params < plain.params
    assert thin.size_bytes < plain.size_bytes
    # Once made, nothing is wanted any more, by this process or another.
    assert wanted(job, plain_forms(job)) == []


def test_fewer_bits_are_tried_first_where_integers_are_too_large(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    forms = plain_forms(job)
    size, slow = forms.points["int8-static"].size_bytes / 1e6, forms.latency("fp32")
    tried: list[str] = []
    monkeypatch.setattr(
        "tenfold.search.variants.make", lambda job, forms, names: tried.extend([forms.name, *names])
    )
    for limits in (
        Budget(size_mb=1.01 * size),  # INT8 fits
        Budget(latency_ms=slow, max_drop=0.1),  # no size is asked for
    ):
        add_what_may_do(replace(job, budget=limits))
        assert tried == []
    add_what_may_do(replace(job, budget=Budget(size_mb=0.9 * size, latency_ms=1.1 * slow)))
    assert tried == [UNTOUCHED, PACKED, "packed3-int8", "int4-weights"]
    tried.clear()
    add_what_may_do(replace(job, budget=Budget(max_drop=0.1), minimize="size"))
    assert tried == [UNTOUCHED, PACKED]


def test_what_may_meet_a_size_is_as_fast_as_asked_for(job: Job) -> None:
    forms = plain_forms(job)
    size = 0.9 * forms.points["int8-static"].size_bytes / 1e6
    floats, integers = forms.latency("fp32"), forms.latency("int8-static")
    for limit in (None, 1.1 * max(floats, integers), 0.9 * floats, 0.9 * min(floats, integers)):
        asked = replace(job, budget=Budget(size_mb=size, latency_ms=limit))
        limit = limit or float("inf")
        assert for_speed_and_size(asked, forms) == (integers <= limit)
        assert integers_are_too_large(asked, forms) == (floats <= limit)


def test_how_many_bits_follow_from_what_four_lose(job: Job) -> None:
    budget = replace(job, budget=Budget(max_drop=0.01), minimize="size")
    plain = dict(plain_forms(job).points)
    for drop, wanted_then in ((None, [PACKED]), (0.002, ["packed6-int8", "packed3-int8"]), (0.05, ["packed5-int8", "packed6-int8"])):  # fmt: skip
        points = dict(plain)
        if drop is not None:
            points[PACKED] = Point("o-packed-int8", "candidate", "", PACKED, validation_drop_high=drop)
        found = wanted(replace(budget), Forms("c5", points))
        assert [name for name in found if name.startswith("packed")] == wanted_then
        assert ("int4-weights" in found) == (
            drop != 0.002
        )  # floats of four bits are larger and slower than integers
    # Where size has no say, only speed counts.
    fast = replace(job, budget=Budget(latency_ms=1e3, max_drop=0.01))
    assert not [name for name in wanted(fast, Forms("c5", plain)) if name.startswith("packed")]


def test_a_structure_that_keeps_the_size_when_it_is_packed_is_served_so_in_its_time(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    healed = recalled(job, "c1")
    assert healed is not None
    params = sum(p.numel() for p in healed.model.parameters())
    small = replace(job, budget=Budget(size_mb=0.9 * params / 1e6))  # neither floats nor int8 fit
    proposal = Proposal(NARROW, "packed", 1, params, 1.0, 1.0, 1.0, round(0.65 * params), 0.1, 0.1, 0.0)
    assert bits_for(small, proposal) == 6.0  # a quarter of a byte a weight is left
    assert bits_for(replace(small, minimize="size"), proposal) == 4.0
    assert list(served_as(small, proposal)) == [PACKED]
    with monkeypatch.context() as patch:
        patch.setattr("tenfold.search.finalist.seconds_spare", lambda job: 0.0)
        with pytest.raises(OutOfTime):
            add_finalist(small, "c2", healed, proposal, 0.0, quietly)
    (point,) = add_finalist(small, "c2", healed, proposal, 0.0, quietly)
    assert (point.id, point.precision) == ("c2-packed", PACKED)
    assert point.label.endswith("INT8, 6 bits a weight")
    assert (point.size_bytes or 0) < (job.store.point("c1-int8").size_bytes or 0)
    job.store.forget("c2")


def test_a_full_disk_ends_the_work_though_one_precision_was_stored(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for the other forms: a precision that was not written is not one that cannot be served."""
    healed, stored = recalled(job, "c1"), []
    assert healed is not None

    def write(job: Job, point: Point, *rest: object) -> Point:
        if stored:
            raise OutputError("no space left")
        stored.append(point)
        return point

    monkeypatch.setattr("tenfold.search.finalist.add_point", write)
    proposal = Proposal(NARROW, "int8", 1, 1, 1.0, 1.0, 1.0, 1, 0.1, 0.1, 0.0)
    with pytest.raises(OutputError, match="no space left"):
        add_finalist(job, "c9", healed, proposal, 0.0, quietly)
    assert len(stored) == 1


def test_a_run_with_variants_comes_to_its_end(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever was made: each is opened, timed and reported."""
    monkeypatch.setattr("tenfold.search.finish.measure_seconds", lambda job: 1.0)
    for name in VARIANTS:
        if not job.store.has(f"c1-{name}"):
            points = {p.precision: p for p in job.store.points() if p.finalist == "c1"}
            add_variant(job, Forms("c1", points), name, quietly)
    frontier = finish(job, {})
    points = {point.id: point for point in frontier.points}
    assert {f"c1-{name}" for name in VARIANTS} <= set(points)
    assert any(note.startswith("packed: ") for note in frontier.sections["notes"])
    assert all(point.latency_ms > 0 for point in points.values())
    for name in VARIANTS:
        assert job.artifact(points[f"c1-{name}"]).run(job.task.example(4)).shape == (4, 10)


def test_what_is_trained_comes_last_and_is_given_its_time(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenfold.search.variants.seconds_plain", lambda job: 1.0)
    monkeypatch.setattr("tenfold.search.variants.original_pass", lambda job, place: 3.0)
    assert list(VARIANTS)[-1] == "int8-trained"
    plain, trained = (seconds_for(job, VARIANTS[name]) for name in ("int8-equalized", "int8-trained"))
    assert (plain, trained) == (2.0, 2.0 + 2 * 2 * 3.0)  # two passes, each twice as slow as a plain one
    found = job.store.point("onnx-int8-static")

    def kept(drop: float) -> float:
        job.store.update(replace(found, validation_drop=drop))
        return seconds_kept(job)

    # Where the plain network loses by integers, a healed one is expected to do so too.
    assert kept(0.3) == pytest.approx(kept(0.0) + 2 * (plain + trained))
    # What is too slow for its share of the time is not waited for.
    monkeypatch.setattr("tenfold.search.variants.original_pass", lambda job, place: 300.0)
    assert kept(0.3) == pytest.approx(kept(0.0) + 2 * plain)
    job.store.update(found)


def test_a_variant_that_runs_out_of_memory_is_on_record(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("tenfold.search.variants.made", full)
    add_variant(job, plain_forms(job), "int8-dynamic", quietly)
    assert "memory ran out" in job.store.failures()["o-int8-dynamic"]

    def broken(*args: object) -> None:
        raise RuntimeError("a mistake in the code")

    monkeypatch.setattr("tenfold.search.variants.made", broken)
    with pytest.raises(RuntimeError, match="a mistake"):
        add_variant(job, plain_forms(job), "int8-dynamic", quietly)
    (job.store.root / "steps" / "failed-o-int8-dynamic.json").unlink()


def test_a_variant_that_ran_out_of_time_is_tried_again_when_there_is_more(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tenfold.search.variants.seconds_spare", lambda job: -1e9)
    add_variant(job, plain_forms(job), "int8-equalized", quietly)
    assert job.store.failures() == {}
    assert not job.store.has("o-int8-equalized")


def test_of_a_healed_network_too(job: Job) -> None:
    points = {p.precision: p for p in job.store.points() if p.finalist == "c1"}
    forms = Forms("c1", points)
    assert "int4-weights" in wanted(job, forms) or "int4-weights" in points
    assert "low-rank" not in wanted(job, forms)


def test_integers_are_mended_only_where_they_cost(job: Job) -> None:
    def forms(floats: float, integers: float) -> Forms:
        points = {
            "fp32": Point("c1-fp32", "candidate", "", "fp32", validation_drop=floats),
            "int8-static": Point("c1-int8", "candidate", "", "int8-static", validation_drop=integers),
        }
        return Forms("c2", points)

    assert where_integers_cost(job, forms(0.001, 0.006))
    assert not where_integers_cost(job, forms(0.005, 0.006))
    assert not where_integers_cost(job, Forms("c2", {}))


@pytest.mark.parametrize(
    ("budget", "minimize", "expected"),
    [
        (Budget(max_drop=0.01), "latency", []),  # a smaller file is no faster
        (Budget(max_drop=0.01), "size", [PACKED, "int4-weights"]),
        (Budget(size_mb=0.001), "size", []),  # larger than the budget by its weights alone
        (Budget(size_mb=1), "size", [PACKED, "int4-weights"]),
    ],
)
def test_a_variant_is_made_only_where_it_could_be_chosen(
    tmp_path: Path, budget: Budget, minimize: str, expected: list[str]
) -> None:
    job = job_for(tmp_path / "run", budget, minimize)
    plain = Point(ORIGINAL, "baseline", "ONNX", "fp32", params=77_000, latency_ms=1.0, seconds=1.0)
    assert wanted(job, Forms(UNTOUCHED, {"fp32": plain})) == expected


def test_a_network_that_cannot_be_trained_is_served_in_other_forms_only(tmp_path: Path) -> None:
    class Frozen(CifarResNet):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return super().forward(x)

    job = job_for(tmp_path / "run", Budget())
    job.task = replace(job.task, model=Frozen(8, num_classes=10, in_channels=1).eval())
    assert scan(job) is None
    assert "no backward pass" in job.store.failures()["pruning"]
