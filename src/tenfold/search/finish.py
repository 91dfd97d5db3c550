"""The end of a run: one timing of all points together, the test set once, the best one marked, the report written."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from tenfold.cost import Profile, environment, measure, profile
from tenfold.files import write_json
from tenfold.report import write_report
from tenfold.search.budget import Budget
from tenfold.search.finalists import NAMES
from tenfold.search.frontier import (
    BASELINES,
    EAGER,
    ORIGINAL,
    PLAIN_INT8,
    UNITS,
    Frontier,
    by_validation,
    choose,
    fits,
    mark,
    nearest,
    value_of,
)  # fmt: skip
from tenfold.search.job import Job, fill_scores, interval_seconds
from tenfold.search.packed import NOTE
from tenfold.search.point import Point
from tenfold.search.roster import LATE, SHORTENED
from tenfold.search.scoring import answers_on
from tenfold.search.serving import FILES, unquantized
from tenfold.search.twins import find_twins, share_figures
from tenfold.training.result import device_name

RESULT = "frontier.json"
MEASURED_SHARE = 0.03  # of the time limit, for the last timing
LONGEST_MEASURE = 30.0
OPEN_BYTES = 1e9  # of files that the last timing holds in memory at once, where they take twice as much
SLACK_SECONDS = 4.0  # for choosing, copying and the report
BEST_SHARE = 0.5  # of what the original takes on the test set, that time is kept for scoring the best


def seconds_needed(job: Job) -> float:
    """What `finish` must take: the timing, the report, and the test set on the original and on the best."""
    original = next(point for point in job.store.points() if point.id == ORIGINAL)
    intervals = 0.0 if job.task.test is None else 2 * interval_seconds(job)
    return measure_seconds(job) + SLACK_SECONDS + (1 + BEST_SHARE) * test_seconds(job, original) + intervals


def seconds_spare(job: Job) -> float:
    """What is left beside that."""
    return job.clock.left() - seconds_needed(job)


def measure_seconds(job: Job) -> float:
    """How long the last timing takes."""
    return min(LONGEST_MEASURE, MEASURED_SHARE * job.clock.limit)


def test_seconds(job: Job, point: Point) -> float:
    """What scoring a point on the test set will take, from what it took on validation."""
    if job.task.test is None or job.outputs(point.id, "test") is not None:
        return 0.0
    return (point.seconds_per_example or 0.0) * len(job.task.test)


def finish(job: Job, provenance: dict[str, Any], more_notes: Sequence[str] = ()) -> Frontier:
    """Measure, score, choose and write everything, with `more_notes` after its own; returns the frontier."""
    points = job.store.points()
    standing = find_twins(points, job.artifact)
    time_together(job, standing)
    share_figures(points)
    mark(points, job.budget)
    chosen = choose(points, job.budget, job.minimize)
    near, binding = nearest(points, job.budget)
    best = chosen or near
    score_on_test(job, standing, best)
    share_figures(points)
    mark(points, job.budget)
    for point in points:
        job.store.update(point)
    feasible = job.budget.empty or (chosen is not None and job.budget.met_by(best))
    if chosen is not None and not feasible:
        binding = max(job.budget.excesses(best).items(), key=lambda item: item[1])[0]
    frontier = Frontier(
        points=points,
        best_id=best.id,
        feasible=feasible,
        binding=None if feasible else binding,
        message=message(job.budget, points, best, None if feasible else binding)
        + hint(job, points, feasible),
        budget=job.budget,
        minimize=job.minimize,
        folder=job.store.root,
        network=job.task.model,
    )
    put_best(job, best)
    frontier.sections = sections(job, points, best, provenance)
    frontier.sections["notes"] += more_notes
    write_report(frontier.to_json(), job.store.root / "report.html")
    write_json(job.store.root / RESULT, frontier.to_json())
    return frontier


def time_together(job: Job, points: list[Point]) -> None:
    """Time all artefacts interleaved in one run: the latencies that are reported.

    Where their files are too large to be open at once it takes several runs, each with the original in it, whose
    latency there is the measure of the others'.
    """
    inputs = job.task.example(job.device.batch)
    groups = held_together(points)
    seconds = measure_seconds(job) / len(groups)
    reference: float | None = None
    with job.clock.phase("measuring") as progress:
        for number, group in enumerate(groups):

            def told(done: float, text: str, number: int = number) -> None:
                progress((number + done) / len(groups), text)

            sessions = {point.id: job.artifact(point).session(job.device.threads) for point in group}
            calls = {name: (lambda session=session: session(inputs)) for name, session in sessions.items()}
            timings = measure(calls, seconds=seconds, seed=job.seed, progress=told)
            reference = reference or timings[ORIGINAL].median_ms
            scale = reference / timings[ORIGINAL].median_ms
            for point in group:
                timing = timings[point.id]
                point.latency_ms, point.latency_iqr_ms = scale * timing.median_ms, scale * timing.iqr_ms
                point.runs = timing.runs
            del sessions, calls  # before the next group is opened


def held_together(points: list[Point]) -> list[list[Point]]:
    """The points parted, the original in every group, so that the files of a group have at most `OPEN_BYTES` together.

    A file that is too large for that has a group with the original alone.
    """
    original = next(point for point in points if point.id == ORIGINAL)
    always = float(original.size_bytes or 0)
    groups, held = [[original]], always
    for point in points:
        if point is original:
            continue
        size = float(point.size_bytes or 0)
        if len(groups[-1]) > 1 and held + size > OPEN_BYTES:
            groups.append([original])
            held = always
        groups[-1].append(point)
        held += size
    return groups


def score_on_test(job: Job, points: list[Point], best: Point) -> None:
    """Score the original and the best, then the frontier, then the rest while there is time: each once."""
    if job.task.test is None:
        return
    rest = sorted(points, key=lambda point: not point.on_frontier)
    order = list(dict.fromkeys([ORIGINAL, best.id, *(point.id for point in rest)]))
    by_id = {point.id: point for point in points}
    with job.clock.phase("test set") as progress:
        for number, point_id in enumerate(order):
            point = by_id[point_id]
            needed = test_seconds(job, point)
            if point.seconds_per_example is None:
                continue
            if point_id not in (ORIGINAL, best.id) and needed > job.clock.left() - SLACK_SECONDS:
                continue
            progress(number / len(order), f"scoring {point_id}")
            stored = job.outputs(point_id, "test")
            if stored is None:
                found = answers_on(job.artifact(point).session(job.threads), job.task.test)
                assert found is not None
                stored = found.outputs, found.targets
                tensors = {"outputs": found.outputs, "targets": found.targets}
                save_file(tensors, job.store.root / "points" / point_id / "test.safetensors")
            original = job.outputs(ORIGINAL, "test")
            assert original is not None
            fill_scores(job, point, "test", *stored, original[0])


def message(budget: Budget, points: list[Point], best: Point, binding: str | None) -> str:
    """What the run found, in a sentence or two."""
    if binding is None:
        return (
            f"{best.id} meets the budget." if not budget.empty else f"{best.id} is the best within one point."
        )
    asked, found = getattr(budget, binding) or budget.tolerated_drop, value_of(best, binding)
    if binding == "max_drop":
        loss = (
            "was not measured" if found is None else f"may be as much as {100 * found:.2f} points (95% bound)"
        )
        limit = "you asked for at most" if budget.max_drop is not None else "where no limit is given it is"
        text = f"the loss of {best.id}, the nearest, {loss}; {limit} {100 * asked:.3g}"
        drop = best.drop if best.drop is not None else best.validation_drop
        if found is not None and drop is not None and found - drop > 0.8 * asked:
            text += f". The set is too small for that question: its interval alone is {100 * (found - drop):.2f} wide"
        if fits(by_validation(best), budget):
            return f"{best.id}, chosen on validation, missed the budget on the test set: {text}."
        return f"No network meets the budget: {text}."
    keeping = [point for point in points if keeps_others(point, budget, binding)]
    values = [value for value in (value_of(point, binding) for point in keeping) if value is not None]
    unit, word = (
        UNITS[binding],
        {"latency_ms": "fastest", "size_mb": "smallest", "memory_mb": "leanest"}[binding],
    )
    least = f"{min(values):.3g} {unit}" if values else "not measured"
    near = "not measured" if found is None else f"{found:.3g} {unit}"
    return (
        f"No network meets the budget: the {word} that keeps the other limits has {least}; you asked for {asked:.3g} "
        f"{unit}. The nearest in all is {best.id} with {near}."
    )


def hint(job: Job, points: list[Point], feasible: bool) -> str:
    """What more time would do where plain INT8, which a search is judged by, or a healed network had none."""
    missing = late(job, points)
    if PLAIN_INT8 in missing:
        return f" There was no time for {', '.join(missing)}, or for a search: give more."
    cannot = "pruning" in job.store.failures()
    if feasible or cannot or any(job.store.step(f"finalist-{name}") is not None for name in NAMES):
        return ""
    return " There was no time to make and heal a smaller network: give more."


def keeps_others(point: Point, budget: Budget, binding: str) -> bool:
    """Whether the point keeps all limits but this one; a loss that nobody limited stays under the default."""
    limits = Budget(budget.latency_ms, budget.size_mb, budget.memory_mb, budget.tolerated_drop)
    shares = limits.excesses(by_validation(point))
    return all(share <= 1 for name, share in shares.items() if name != binding)


def put_best(job: Job, best: Point) -> None:
    """Copy the best point's files to OUT/best, whole or not at all."""
    target = job.store.root / "best"
    source = job.store.root / str(best.artifact)
    if best.precision == EAGER:
        # The untouched network won: its saved form stands beside its export.
        source = job.store.root / "points" / ORIGINAL
    working = Path(tempfile.mkdtemp(dir=job.store.root, prefix=".best-"))
    try:
        for name in FILES:
            shutil.copyfile(source / name, working / name)
        working.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        working.rename(target)
    finally:
        shutil.rmtree(working, ignore_errors=True)


def sections(job: Job, points: list[Point], best: Point, provenance: dict[str, Any]) -> dict[str, Any]:
    """The parts of frontier.json beside the points: layers, timeline and provenance."""
    lengths = {
        name: None if split is None else len(split)
        for name, split in (
            ("train", job.task.train), ("validation", job.task.validation), ("test", job.task.test)
        )
    }  # fmt: skip
    machine = environment()
    return {
        "metric": getattr(job.task.metric, "__name__", "metric"),
        "layers": {"before": layers(job.original_profile()), "after": layers(best_profile(job, best))},
        "notes": notes(job, points),
        "timeline": [{"phase": name, "seconds": round(s, 1)} for name, s in job.clock.phases.items()],
        "provenance": {
            **provenance,
            **machine,
            "threads": job.device.threads,
            "train_on": device_name(job.train_on),
            "batch": job.device.batch,
            "runtime": job.device.runtime,
            "seed": job.seed,
            "examples": lengths,
            "seconds": round(job.clock.spent(), 1),
            "time_limit": job.clock.limit,
            "finished": time.strftime("%Y-%m-%d %H:%M:%S"),
        },
    }


def late(job: Job, points: list[Point]) -> list[str]:
    """The baselines, and the recipes of the user, that there was no time for."""
    there = {point.id for point in points} | set(job.store.failures())
    return [name for name in (*BASELINES, *(asked.id for asked in job.recipes)) if name not in there]


def notes(job: Job, points: list[Point]) -> list[str]:
    """What could not be made, and why, and what there is to say of what was made: a line each."""
    failed = {name: job.store.step(f"finalist-{name}") for name in NAMES}
    failures = job.store.failures()
    shortened = {point.id: job.store.step(SHORTENED + point.id) for point in points if point.by_recipe}
    return (
        [f"{name} was left out: {why}" for name, why in failures.items()]
        + [
            f"{name} was left out: {job.store.step(LATE + name) or 'there was no time to make and score it'}"
            for name in late(job, points)
        ]
        + [
            f"{name} could not be made: {record['error']}"
            for name, record in failed.items()
            if record is not None and "error" in record
        ]
        + [f"{name} was {why}" for name, why in shortened.items() if why is not None]
        + ([NOTE] if any(point.precision.startswith("packed") for point in points) else [])
    )


def layers(counts: Profile) -> list[dict[str, Any]]:
    """The layers that hold parameters or multiply, as the report takes them."""
    return [
        {"name": layer.name, "op": layer.op, "macs": layer.macs, "params": layer.params}
        for layer in counts.layers
        if layer.macs or layer.params
    ]


def best_profile(job: Job, best: Point) -> Profile:
    """The counts of the best network before its layers became integers."""
    return profile(unquantized(job.store.root / "best", job.task), job.task.zeros(job.device.batch))
