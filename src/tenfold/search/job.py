"""What one run of the search holds in its hands, and how it turns a changed network into a point."""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tenfold.compress import Recipe, Run, Step
from tenfold.cost import Device, Interval, Profile, cpu_count, measure, profile
from tenfold.data import Task
from tenfold.deploy import Artifact, deploy_eager, peak_memory
from tenfold.errors import TenfoldWarning
from tenfold.files import write_json
from tenfold.search.budget import Budget
from tenfold.search.clock import Clock
from tenfold.search.frontier import ORIGINAL, PLAIN_INT8, opened
from tenfold.search.point import Point
from tenfold.search.roster import Asked
from tenfold.search.scoring import BOOTSTRAP_SECONDS, Effort, Runner, answers_on, dropped, effort_for, scored
from tenfold.search.serving import serve, verified
from tenfold.search.store import Store

Progress = Callable[[float, str], None]
KEEP_TIME_EVERY = 5.0  # seconds
MOST_THREADS = 16  # a batch of a small network is no work for more
QUICK_SECONDS = 1.0  # of a first timing; what is reported comes from the last one, of all points together
SCORING_SHARE = 0.02  # of the time limit, for a baseline that nothing depends on …
PLAIN_SHARE = 0.1  # … and for plain INT8, which may be all that a short run finds
INTERVAL_SHARE = 0.01  # of the time limit, for an interval


@dataclass
class Job:
    """One run: what is asked, where it is stored, and what was found so far."""

    task: Task
    budget: Budget
    device: Device
    minimize: str
    store: Store
    clock: Clock
    seed: int
    train_on: torch.device = field(default_factory=lambda: torch.device("cpu"))
    cache: dict[str, Any] = field(default_factory=dict)
    recipes: tuple[Asked, ...] = ()  # of the user, to be made as points

    @property
    def threads(self) -> int:
        """Threads for work that is not timed."""
        return min(cpu_count(), MOST_THREADS)

    def run(
        self,
        progress: Progress = lambda fraction, text: None,
        seconds: float = math.inf,
        checkpoint: Path | None = None,
    ) -> Run:
        """The context that techniques get; they must return within `seconds`."""
        return Run(
            seed=self.seed,
            deadline=time.monotonic() + seconds,
            progress=progress,
            device=self.device,
            folder=self.store.root / "cache",
            checkpoint=checkpoint,
            teacher=self.task.model,
            train_on=self.train_on,
            cache=self.cache,
        )

    def original_profile(self) -> Profile:
        """The counts of the untouched network at the device's batch."""
        if "profile" not in self.cache:
            self.cache["profile"] = profile(self.task.model, self.task.zeros(self.device.batch))
        return self.cache["profile"]

    def keep_time(self) -> None:
        """Write down the seconds spent so far."""
        self.cache["time kept"] = self.clock.spent()
        self.store.finish_step("clock", {"seconds": round(self.clock.spent(), 2)})

    def note_time(self) -> None:
        """As `keep_time`, if that was some seconds ago: a process that is killed must not be given them again."""
        if self.clock.spent() - self.cache.get("time kept", 0.0) > KEEP_TIME_EVERY:
            self.keep_time()

    def telling(self, progress: Progress, name: str) -> Progress:
        """Progress under a name that also notes the time spent."""

        def told(fraction: float, text: str) -> None:
            self.note_time()
            progress(fraction, f"{name}: {text}")

        return told

    def artifact(self, point: Point) -> Artifact:
        """A finished point's artefact."""
        return opened(self.store.root, point, self.task.model)

    def outputs(self, point_id: str, split: str) -> tuple[Tensor, Tensor] | None:
        """Stored outputs and targets of a finished point on a split, if it was scored there."""
        path = self.store.root / "points" / point_id / f"{split}.safetensors"
        if not path.exists():
            return None
        stored = load_file(path)
        return stored["outputs"], stored["targets"]


def add_point(
    job: Job,
    point: Point,
    model: nn.Module,
    steps: Sequence[Step],
    recipe: Recipe | None,
    progress: Progress = lambda fraction, text: None,
    began: float | None = None,
) -> Point:
    """Save, export, verify, score on validation and time `model`, and store it as a finished point.

    `point` comes with id, kind, label and precision; without a recipe it is served by PyTorch. `began` is when its making began (`time.monotonic()`).
    Raises `ExportError` or `VerificationError` where it cannot be served.
    """
    began = time.monotonic() if began is None else began
    with job.store.adding(point.id) as folder:
        if recipe is None:
            artifact = deploy_eager(model, folder / "weights.safetensors")
        else:
            artifact = serve(folder, model, steps, recipe, job.task)
        runner = artifact.session(job.threads)
        checked = verified(model, runner, job.task)
        point.verification = {
            "max_error": checked.max_error,
            "snr_db": finite(checked.snr_db),
            "text": checked.text,
        }
        score(job, point, runner, folder, progress)
        point.size_bytes = artifact.size_bytes
        point.peak_memory_bytes = peak_memory(
            artifact, job.task.example(job.device.batch), job.device.threads
        )
        point.latency_ms, point.latency_iqr_ms, point.runs = quick_latency(job, artifact)
        point.artifact = f"points/{point.id}"
        if recipe is not None:
            point.recipe, point.recipe_text = f"points/{point.id}/recipe.yaml", recipe.to_yaml()
        point.seconds = round(time.monotonic() - began, 2)
        write_json(folder / "point.json", point.to_json())
    return point


def score(job: Job, point: Point, runner: Runner, folder: Path, progress: Progress) -> None:
    """Score on validation. A baseline whose scoring would eat up the time stays without a score."""
    optional = point.kind == "baseline" and point.id != ORIGINAL
    share = PLAIN_SHARE if point.id == PLAIN_INT8 else SCORING_SHARE
    allowed = share * job.clock.limit - interval_seconds(job)
    found = answers_on(
        runner,
        job.task.validation,
        lambda done: progress(done, f"scoring {point.id} on validation"),
        allowed if optional else math.inf,
    )
    if found is None:
        return
    point.seconds_per_example = found.seconds_per_example
    save_file({"outputs": found.outputs, "targets": found.targets}, folder / "validation.safetensors")
    original = found.outputs if point.id == ORIGINAL else job.outputs(ORIGINAL, "validation")[0]  # type: ignore[index]
    fill_scores(job, point, "validation", found.outputs, found.targets, original)


def quick_latency(job: Job, artifact: Artifact) -> tuple[float, float, int]:
    """Median and IQR in milliseconds, and the calls timed: a first figure, measured on its own."""
    session, inputs = artifact.session(job.device.threads), job.task.example(job.device.batch)
    timing = measure({"point": lambda: session(inputs)}, seconds=QUICK_SECONDS)["point"]
    return timing.median_ms, timing.iqr_ms, timing.runs


def fill_scores(
    job: Job, point: Point, split: str, outputs: Tensor, targets: Tensor, original: Tensor
) -> None:
    """Score and drop on a split, with intervals, into the point."""
    metric = job.task.metric
    assert callable(metric)  # `Task` looks names up
    effort = effort_on(job, split, original, targets)
    value = scored(metric, outputs, targets, effort)
    # The original loses nothing against itself: no interval is to say that it might.
    same = point.id == ORIGINAL
    loss = Interval(0.0, 0.0, 0.0) if same else dropped(metric, original, outputs, targets, effort)
    if split == "validation":
        point.validation_score = value.value
        point.validation_drop, point.validation_drop_low, point.validation_drop_high = (
            loss.value,
            loss.low,
            loss.high,
        )
    else:
        point.score, point.score_low, point.score_high = value.value, value.low, value.high
        point.drop, point.drop_low, point.drop_high = loss.value, loss.low, loss.high


def effort_on(job: Job, split: str, outputs: Tensor, targets: Tensor) -> Effort:
    """What intervals on a split rest on: decided once for a run, so that all its points are judged alike."""
    stored = job.store.step(f"intervals-{split}")
    if stored is None:
        assert callable(job.task.metric)
        allowed = min(BOOTSTRAP_SECONDS, INTERVAL_SHARE * job.clock.limit)
        effort = effort_for(job.task.metric, outputs, targets, allowed)
        if effort.seconds * effort.resamples > 2 * allowed:
            warnings.warn(slow(effort), TenfoldWarning, stacklevel=2)
        stored = asdict(effort)
        job.store.finish_step(f"intervals-{split}", stored)
    return Effort(**stored)


def interval_seconds(job: Job) -> float:
    """What the intervals of a point's score and drop take, as they did on validation."""
    effort = Effort(**(job.store.step("intervals-validation") or {}))
    return 1.5 * effort.seconds * effort.resamples  # a score asks about one network, a drop about two


def slow(effort: Effort) -> str:
    """What is said of a metric that takes so long that its intervals eat up the time."""
    return (
        f"the metric is slow: the interval of one network's loss takes about {effort.seconds * effort.resamples:.2g} s, "
        "and each network needs one on every split; give more time or a faster metric"
    )


def finite(value: float) -> float | None:
    """JSON has no infinity: an exact answer has no signal-to-noise figure."""
    return value if math.isfinite(value) else None
