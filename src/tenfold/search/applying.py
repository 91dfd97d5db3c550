"""Applying a recipe outside a search: the network is changed, saved, exported, verified and, with data, scored."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from tenfold.compress import Recipe, Run, apply_recipe
from tenfold.compress.distill import Distill, Matching
from tenfold.cost import Device, measure
from tenfold.data import Task, check_alike, check_task, checked_score
from tenfold.deploy import Verification, deploy_onnx
from tenfold.errors import OutputError, RecipeError, memory_reported
from tenfold.files import beside
from tenfold.naming import described
from tenfold.search.clock import Report, silent
from tenfold.search.scoring import Runner, answers_on
from tenfold.search.serving import FILES, serve, verified
from tenfold.training import joint_teacher, place_for, training_place

LATENCY_SECONDS = 1.5
# Scoring the original may take so long, or so many times what scoring the result took.
ORIGINAL_SECONDS, ORIGINAL_TIMES = 60.0, 5.0


@dataclass(frozen=True)
class Made:
    """What a recipe made: its folder, the bytes of the ONNX file, how it was verified and how it scores.

    `original_bytes` and `original_score` are those of the network it was made of; where one is None, `original_untold`
    says why.
    """

    folder: Path
    size_bytes: int
    verification: Verification
    validation_score: float
    original_bytes: int | None = None
    original_score: float | None = None
    original_untold: str = ""

    def summary(self) -> str:
        """Three lines for a terminal, and one more where the original could not be scored."""
        size, score = f"{self.size_bytes:,} bytes of ONNX", f"{self.validation_score:.4f} on validation"
        if self.original_bytes is not None:
            times = self.original_bytes / self.size_bytes
            size += f" (the original {self.original_bytes:,}: {times:.2f} times as many)"
        if self.original_score is not None:
            score += f" (the original {self.original_score:.4f})"
        untold = f"\nthe original was not scored: {self.original_untold}" if self.original_untold else ""
        return (
            f"{self.folder}: {', '.join(FILES)}\n{size}, {score}\n"
            f"the ONNX file against this network in PyTorch: {self.verification.text}{untold}"
        )


def apply_to_folder(
    recipe: Recipe,
    task: Task,
    folder: Path | str,
    device: Device | None = None,
    report: Report = silent,
    train_on: str | None = None,
    teachers: Mapping[str, nn.Module] | None = None,
) -> Made:
    """Make the recipe's network from `task.model` and write it to `folder`, which must not hold anything yet.

    `train_on` ("cpu" or "cuda") is where it is trained, by default a GPU if there is one. `teachers` by name, by default
    `task.model` alone, teach it: several by the mean of their outputs (`training.Ensemble`). Their names are kept in
    `structure.json`, under `extra`.

    Raises `RecipeError` where the recipe does not go with the network or the teachers, `ExportError` or `VerificationError`
    where the result cannot be served, `OutputError` where the folder is in use or cannot be written.
    """
    folder, device = Path(folder), device or Device()
    training_place(train_on)  # a wrong name is told before anything else
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"--out {folder} is not empty: name another folder, or remove it")
    trains = any(isinstance(t, Distill) or getattr(t, "epochs", 0) for t in recipe.steps)
    if teachers is not None:
        _check_teaching(recipe, task, teachers, trains)
    check_alike(task)
    check_task(task)
    teacher = task.model if teachers is None else joint_teacher(teachers, task.model, task.train)
    place = place_for(task.model, task.example(2), train_on) if trains else None
    run = Run(
        seed=recipe.seed,
        device=device,
        teacher=teacher,
        train_on=place,
        progress=lambda fraction, text: report("recipe", fraction, text),
        latency=lambda network: served_latency(network, task, device),
    )
    with beside(folder) as working:  # before the work, which a folder that cannot be written would lose
        with memory_reported():
            model, steps = apply_recipe(recipe, task, run)
        extra = None if teachers is None else {"teachers": list(teachers)}
        artifact = serve(working, model, steps, recipe, task, extra)
        runner = artifact.session(device.threads)
        checked = verified(model, runner, task)
        began = time.monotonic()
        score = _score(runner, task, lambda done: report("scoring", done, "validation"))
        assert score is not None  # for there is no limit on the time
        seconds = max(ORIGINAL_SECONDS, ORIGINAL_TIMES * (time.monotonic() - began))
        size = artifact.size_bytes
        if folder.exists():
            folder.rmdir()
        working.chmod(0o755)
        working.rename(folder)
    return _beside_the_original(Made(folder, size, checked, score), task, device, seconds, report)


def _beside_the_original(made: Made, task: Task, device: Device, seconds: float, report: Report) -> Made:
    """`made` with the bytes of `task.model` exported to ONNX and its score, or with why there are none.

    Nothing rests on these: what goes wrong, an interruption too, leaves them out, for the network is finished.
    """
    size = None
    try:
        with beside(made.folder) as working:
            report("original", 0.0, "exporting it, to compare")
            artifact = deploy_onnx(task.model, task.example(2), working / "model.onnx")
            size = artifact.size_bytes
            runner = artifact.session(device.threads)
            score = _score(runner, task, lambda done: report("original", done, "validation"), seconds)
            if score is not None:
                return replace(made, original_bytes=size, original_score=score)
            untold = f"it would take more than {seconds:.0f} s"
    except KeyboardInterrupt:
        untold = "interrupted"
    except Exception as error:
        untold = described(error)
    return replace(made, original_bytes=size, original_untold=untold)


def _score(
    runner: Runner, task: Task, progress: Callable[[float], None], seconds: float = math.inf
) -> float | None:
    """On the validation examples; None where that would take more than so many seconds."""
    found = answers_on(runner, task.validation, progress, seconds)
    if found is None:
        return None
    assert callable(task.metric)  # `Task` looks names up
    return checked_score(task.metric, found.outputs, found.targets)


def _check_teaching(recipe: Recipe, task: Task, teachers: Mapping[str, nn.Module], trains: bool) -> None:
    """Raise a `RecipeError` where no step learns from a teacher, or one learns what only the original can teach."""
    if not trains:
        raise RecipeError(
            "no step of the recipe learns from a teacher: leave the teachers out, or add distill"
        )
    if list(teachers.values()) == [task.model]:
        return
    for index, step in enumerate(recipe.steps):
        if isinstance(step, Distill) and step.hidden is not Matching.NONE:
            raise RecipeError(
                f"step {index + 1} (distill) matches hidden layers, which are those of the original alone: other networks "
                "have other layers, and a mean of several has none; leave hidden out, or the teachers"
            )


def served_latency(network: nn.Module, task: Task, device: Device) -> float:
    """Milliseconds of one call of `network` exported to ONNX, the median of `LATENCY_SECONDS` of calls."""
    with tempfile.TemporaryDirectory(prefix="tenfold-latency-") as folder:
        artifact = deploy_onnx(network, task.example(2), Path(folder, "model.onnx"))
        session, inputs = artifact.session(device.threads), task.example(device.batch)
        return measure({"network": lambda: session(inputs)}, seconds=LATENCY_SECONDS)["network"].median_ms
