"""Recipes of the user as points of a search: what is made of them, in how much time, and what a second call does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tenfold
from tenfold.cli.app import main
from tenfold.compress import Recipe, Run, apply_recipe, load, read_recipe
from tenfold.compress.distill import Distill
from tenfold.compress.factorize import Factorize
from tenfold.compress.prune import Free, Prune, Sparsify
from tenfold.compress.quantize import Quantize, QuantizeWeights
from tenfold.compress.recipe import checkpoint_of
from tenfold.cost import Device, profile
from tenfold.data import fashion_mnist
from tenfold.errors import ExportError, OutputError, RecipeError
from tenfold.report.wording import counted_passes, told_passes
from tenfold.search import Budget
from tenfold.search.clock import Clock
from tenfold.search.finalist import healing_file
from tenfold.search.finish import finish
from tenfold.search.frontier import BASELINES, ORIGINAL
from tenfold.search.job import Job
from tenfold.search.point import Point
from tenfold.search.recipes import Timetable, add_recipes
from tenfold.search.roster import Recipes, enrolled, named
from tenfold.search.rounds import width_here
from tenfold.search.store import Store
from tenfold.search.variants import bases

SMALL = Recipe((Prune(ratio=0.5), Distill(epochs=2), Quantize(examples=16)), seed=3)
LIMIT = 600.0
FOUR = Recipe((QuantizeWeights(bits=4),))
MINE = {"my/Kleines Netz.yaml": SMALL}


@pytest.fixture(scope="module", autouse=True)
def few_exports() -> Iterator[None]:
    """An export, and the memory of a fresh process, take longer than all else here: one baseline does, unmeasured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tenfold.search.job.peak_memory", lambda *_: 1)
        patch.setattr("tenfold.search.baselines.BASELINES", {ORIGINAL: BASELINES[ORIGINAL]})
        yield


@pytest.fixture(scope="module")
def task() -> tenfold.Task:
    torch.manual_seed(0)
    splits = fashion_mnist()
    network = nn.Sequential(
        nn.Conv2d(1, 8, 3, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 32, 3),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(800, 10),
    ).eval()
    return tenfold.Task(network, train=splits.train.take(60), validation=splits.validation.take(30))


@pytest.fixture(scope="module")
def plain(task: tenfold.Task, tmp_path_factory: pytest.TempPathFactory) -> Job:
    """A run that came to its end without a search: its baselines are those of every test here."""
    out = tmp_path_factory.mktemp("recipes") / "run"
    with pytest.MonkeyPatch.context() as patch:
        without_search(patch)
        tenfold.shrink(task, out=out, time_limit=LIMIT)
    return Job(task, Budget(), Device(), "latency", Store(out), Clock(LIMIT), seed=0)


def without_search(patch: pytest.MonkeyPatch) -> None:
    """Nothing but baselines, recipes and a short end."""
    patch.setattr("tenfold.search.shrinking.plain_known", lambda job: False)
    patch.setattr("tenfold.search.finish.measure_seconds", lambda job: 0.3)


def with_recipes(job: Job, recipes: Recipes) -> Job:
    return replace(job, recipes=enrolled(job.store, named(recipes)))


@pytest.fixture(scope="module")
def job(plain: Job) -> Job:
    """With a recipe made."""
    job = with_recipes(plain, MINE)
    add_recipes(job)
    return job


def test_a_recipe_is_a_point_that_its_file_makes_again(job: Job, task: tenfold.Task) -> None:
    point = job.store.point("r1-kleines-netz")
    assert point.label == "Kleines Netz: prune, healed 2 passes, quantize"
    assert (point.kind, point.precision) == ("candidate", "int8-static")
    recipe = read_recipe(job.store.root / point.recipe)
    assert [type(step) for step in recipe.steps] == [Prune, Distill, Quantize]
    assert recipe.seed == 3
    assert recipe.steps[1].precision is not None  # what timing decided is stated
    again, _ = apply_recipe(recipe, task, Run(seed=recipe.seed))
    inputs = task.example(20)
    with torch.inference_mode():
        assert torch.equal(load(job.store.root / point.artifact, base=task.model)(inputs), again(inputs))
    # Integers count as what they were.
    narrow, _ = apply_recipe(Recipe(SMALL.steps[:1]), task, Run(seed=3))
    counts = profile(narrow, task.zeros(1))
    assert (point.params, point.macs) == (counts.params, counts.macs)
    assert not list((job.store.root / "cache").glob("*-healing*"))


def test_it_stands_on_the_frontier_with_the_others(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenfold.search.finish.measure_seconds", lambda job: 0.5)
    frontier = finish(job, {})
    points = {point.id: point for point in frontier.points}
    assert {"r1-kleines-netz", ORIGINAL} <= set(points)
    assert points["r1-kleines-netz"].size_bytes < points[ORIGINAL].size_bytes
    assert all(point.latency_ms > 0 for point in points.values())
    report = (job.store.root / "report.html").read_text()
    assert "Kleines Netz: prune, healed 2 passes, quantize" in report
    assert not [note for note in frontier.sections["notes"] if note.startswith("r1-")]


def test_what_it_loses_says_nothing_to_the_search(job: Job) -> None:
    bad = Point("r9-bad", "candidate", "", validation_drop=0.1, validation_drop_high=0.9, latency_ms=1e-3)
    width = width_here(job)
    folder = job.store.root / "points" / bad.id
    folder.mkdir()
    job.store.update(replace(bad, size_bytes=1))
    assert width_here(job) == width
    assert [forms.name for forms in bases(job)] == ["o"]
    (folder / "point.json").unlink()


def test_one_that_fails_is_on_record_and_the_next_is_made(
    plain: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = with_recipes(plain, [Recipe((QuantizeWeights(bits=3),)), Recipe((QuantizeWeights(bits=8),))])
    failing, fine = job.recipes
    serve = tenfold.search.job.serve

    def refusing(folder: Path, model: object, steps: object, recipe: Recipe, task: object) -> object:
        if recipe.steps[0].bits == 3:
            raise ExportError("no operator for it")
        return serve(folder, model, steps, recipe, task)

    monkeypatch.setattr("tenfold.search.job.serve", refusing)
    add_recipes(job)
    assert job.store.failures() == {failing.id: "no operator for it"}
    point = job.store.point(fine.id)
    assert (point.label, point.precision) == ("quantize-weights", "fp32")  # what it computes in
    monkeypatch.setattr("tenfold.search.recipes.add_recipe", None)  # nobody tries again
    add_recipes(job)


@pytest.mark.parametrize(
    ("recipe", "limit", "text"),
    [
        (Recipe((Quantize(),)), 0.0, "is less than another network takes"),
        (Recipe((Sparsify(epochs=1e6),)), 300.0, "is too short for 1000000 passes"),
    ],
)
def test_without_time_it_is_left_out_and_with_more_tried_again(
    plain: Job, recipe: Recipe, limit: float, text: str
) -> None:
    job = with_recipes(replace(plain, clock=Clock(limit)), {"long": recipe})
    add_recipes(job)
    name = job.recipes[0].id
    assert not job.store.has(name)
    assert name not in job.store.failures()
    assert text in job.store.step(f"late-{name}")


def test_running_out_of_time_is_no_failure(plain: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    job = with_recipes(plain, {"slow": Recipe((Factorize(),))})
    name = job.recipes[0].id
    monkeypatch.setattr(Timetable, "__call__", lambda self, index: time.monotonic())  # it is over at once
    add_recipes(job)
    assert name not in job.store.failures()
    assert "did not do: Factorize ran out of time at " in job.store.step(f"late-{name}")


def test_healing_leaves_time_for_what_follows_and_says_what_was_cut_short(
    plain: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundred thousand passes are asked for, far more than there is time for."""
    monkeypatch.setattr("tenfold.search.recipes.seconds_plain", lambda job: 2.5)
    monkeypatch.setattr("tenfold.search.recipes.seconds_spare", lambda job: job.clock.left())
    found: list[Recipe] = []
    monkeypatch.setattr("tenfold.search.recipes.add_point", lambda *args: found.append(args[4]))
    long = Recipe((Distill(epochs=1e5), Quantize(examples=16)))
    job = with_recipes(replace(plain, clock=Clock(14.0)), {"long": long})
    add_recipes(job)
    assert found, job.store.step(f"late-{job.recipes[0].id}")
    assert 0 < found[0].steps[0].epochs < 1e4
    assert found[0].steps[1:] == long.steps[1:]
    assert "of 100000 passes" in job.store.step(f"shortened-{job.recipes[0].id}")


def test_healings_that_were_stopped_go_on(plain: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second of two: what the first one did is not done again either."""
    monkeypatch.setattr("tenfold.training.keeping.EVERY_SECONDS", -1.0)
    monkeypatch.setattr("tenfold.training.keeping.SHARE_OF_TIME", 1e9)
    found: list[list[float]] = []

    def noted(*args: Any) -> None:
        healed = [step.resolved for step in args[3] if isinstance(step.technique, Distill)]
        found.append([resolved["epochs"] - resolved["epochs_before"] for resolved in healed])

    monkeypatch.setattr("tenfold.search.recipes.add_point", noted)
    told = 0

    def stop(phase: str, fraction: float, text: str) -> None:
        nonlocal told
        told += "epoch" in text and fraction > 0.6
        if told == 10:
            raise KeyboardInterrupt

    recipes = {"heal": Recipe((Distill(epochs=20), Prune(ratio=0.5), Distill(epochs=40)))}
    stopped = with_recipes(replace(plain, clock=Clock(LIMIT, report=stop)), recipes)
    with pytest.raises(KeyboardInterrupt):
        add_recipes(stopped)
    file = healing_file(plain, stopped.recipes[0].id)
    kept = [checkpoint_of(file, index) for index in range(3)]
    assert [path.exists() for path in kept] == [True, False, True]
    add_recipes(with_recipes(plain, recipes))
    ((first, second),) = found
    assert first == 0
    assert 0 < second < 40
    assert not any(path.exists() for path in kept)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OutputError])
def test_stages_are_kept_until_the_point_stands(
    plain: Job, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    """Also where the process is stopped, or the disk full, while the network is exported and scored."""

    def stop(*_: Any) -> None:
        raise error("while it is exported")

    job = with_recipes(plain, {"sparse": Recipe((Sparsify(Free(0.6), stages=2, epochs=2),))})
    cache, pattern = job.store.root / "cache", f"{job.recipes[0].id}-healing*"
    with monkeypatch.context() as patch:
        patch.setattr("tenfold.search.recipes.add_point", stop)
        with pytest.raises(error):
            add_recipes(job)
    assert [path.stem[-7:] for path in sorted(cache.glob(pattern))] == ["-stage1", "-stage2"]
    monkeypatch.setattr("tenfold.search.recipes.add_point", lambda *_: None)
    add_recipes(job)
    assert not list(cache.glob(pattern))


def test_passes_are_told_in_plain_digits() -> None:
    assert [counted_passes(n) for n in (0.257, 0.999, 1.0, 12.0)] == [
        "0.26 passes",
        "1 pass",
        "1 pass",
        "12 passes",
    ]
    assert [told_passes(n) for n in (0.257, 2.0, 3.54, 19.6, 100.0, 1234.5)] == [
        "0.26",
        "2",
        "3.5",
        "20",
        "100",
        "1234",
    ]


def test_a_timetable_shares_time_by_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = (Prune(), Distill(epochs=6), Sparsify(epochs=2), Quantize())
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    timetable = Timetable(steps, 200.0, each=10.0)
    assert timetable(0) == 180.0  # what follows has ten seconds each, and healing what is left
    now[0] = 120.0
    assert timetable(1) == 120.0 + 60.0 * 6 / 8
    now[0] = 166.0  # a healing that ends late is whole …
    assert timetable(2) == 190.0
    now[0] = 191.0  # … and what decided by less than it was to read is not
    with pytest.raises(tenfold.errors.OutOfTime, match=r"step 3 \(sparsify\)"):
        timetable(3)


def test_a_run_goes_on_with_recipes_that_are_added(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    without_search(monkeypatch)
    out = job.store.root
    # Without recipes a finished run is what it was before there were any.
    assert json.loads((out / "steps" / "finished.json").read_text()) == {"time_limit": LIMIT}
    phases: list[str] = []

    def run(recipes: Recipes) -> set[str]:
        phases.clear()
        frontier = tenfold.shrink(
            job.task,
            out=out,
            time_limit=LIMIT,
            recipes=recipes,
            report=lambda phase, *_: phases.append(phase),
        )
        return {point.id.partition("-")[2] for point in frontier.points}

    assert "kleines-netz" in run({"another name": SMALL})
    assert "recipes" not in phases  # it is made
    assert "four" not in run(MINE)
    assert phases == []  # handed back
    assert {"kleines-netz", "four"} <= run({"four": FOUR, **MINE})
    assert "recipes" in phases
    assert {"kleines-netz", "four"} <= run(())
    assert phases == []


@pytest.mark.parametrize(
    ("recipes", "text"),
    [
        (
            {"mine": Recipe((Distill(hidden=(("nowhere", "bn1"),)),))},
            r"recipe mine: step 1 \(distill\): nowhere",
        ),
        ([Recipe((Quantize(),)), Recipe()], r"recipe 2 has no step"),
        (["int8"], r"recipe 1 is 'int8', not a Recipe"),
        ("int8", r"not a str"),
    ],
)
def test_trouble_is_told_before_anything_is_written(
    task: tenfold.Task, tmp_path: Path, recipes: Recipes, text: str
) -> None:
    with pytest.raises(RecipeError, match=text):
        tenfold.shrink(task, out=tmp_path / "run", recipes=recipes)
    assert not (tmp_path / "run").exists()


def test_the_command_reads_recipes_by_name_and_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.yaml"
    command = ["shrink", "zoo:resnet56_fashion_mnist", "--out", str(tmp_path / "run"), "--recipe", "int8"]
    monkeypatch.setattr("tenfold.cli.searches.read_task", lambda *_: None)
    seen: dict[str, Recipe] = {}

    def shrink(*_: object, recipes: dict[str, Recipe], **__: object) -> None:
        seen.update(recipes)
        raise KeyboardInterrupt

    monkeypatch.setattr("tenfold.search.shrink", shrink)
    path.write_text("steps:\n  - technique: quantize-weights\n    bits: 5\n")
    with pytest.raises(SystemExit):
        main([*command, "--recipe", str(path)])
    assert seen == {"int8": Recipe((Quantize(),)), str(path): Recipe((QuantizeWeights(bits=5),))}
    capsys.readouterr()
    path.write_text("steps:\n  - technique: quantize\n  - technique: prune\n")
    for spec, text in (("in8", "did you mean 'int8'"), (str(path), "quantize must come last")):
        with pytest.raises(SystemExit) as left:
            main([*command, "--recipe", spec])
        assert left.value.code not in (0, None)
        assert text in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "run").exists()
