"""Recipes: the techniques to apply, in order, as a YAML file.

    tenfold: 1
    seed: 0
    steps:
      - technique: prune
        keep: 0.5
      - technique: quantize

Reading is safe (plain scalars, lists and mappings; no tags, no aliases), and an error names its line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

import yaml
from torch import nn

from tenfold.coding import CodingError, short
from tenfold.compress.registry import TECHNIQUES, technique_from, technique_name, technique_to_dict, undoing
from tenfold.compress.technique import STAGE, Foreseeing, Json, Run, Technique, quantized, unrunnable
from tenfold.data import Task
from tenfold.errors import RecipeError
from tenfold.files import write_text
from tenfold.naming import nearest
from tenfold.yaml_files import parse_yaml, read_yaml

VERSION = 1
_KEYS = ("tenfold", "seed", "steps")


@dataclass(frozen=True)
class Recipe:
    """The steps in order, and the seed they were or are to be run with. No step at all is a recipe too."""

    steps: tuple[Technique, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        check_order(self.steps)

    def to_dict(self) -> Json:
        """The recipe as plain data, as in the file."""
        return {
            "tenfold": VERSION,
            "seed": self.seed,
            "steps": [technique_to_dict(step) for step in self.steps],
        }

    def to_yaml(self) -> str:
        """The text of the recipe's file."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    def write(self, path: Path | str) -> None:
        """Write the recipe's file, whole or not at all."""
        write_text(path, self.to_yaml())


@dataclass(frozen=True)
class Step:
    """A technique that was applied, and what it decided."""

    technique: Technique
    resolved: Json


def check_order(steps: tuple[Technique, ...]) -> None:
    """Raise a `RecipeError` with the reason where the order of the steps makes no sense."""
    seen: set[str] = set()
    for index, step in enumerate(steps):
        name = technique_name(step)
        entry = TECHNIQUES[name]
        if entry.once and name in seen:
            raise CodingError(("steps", index), f"step {index + 1}: {name} comes twice, but {entry.once}")
        if entry.final and index < len(steps) - 1:
            after = technique_name(steps[index + 1])
            raise CodingError(
                ("steps", index),
                f"step {index + 1}: {name} must come last, and {after} follows it: {entry.final}",
            )
        if index and step == steps[index - 1]:
            raise CodingError(
                ("steps", index),
                f"step {index + 1} repeats step {index} ({name}) unchanged: give one, of the full amount",
            )
        for earlier in steps[:index]:
            reason = undoing(earlier, step)
            if reason:
                text = f"{name} may not follow {technique_name(earlier)}: {reason}"
                raise CodingError(("steps", index), f"step {index + 1}: {text}")
        seen.add(name)


def recipe_from(values: Any) -> Recipe:
    """A recipe from plain data; `RecipeError` where it is none."""
    if not isinstance(values, dict):
        raise CodingError((), "a recipe is a mapping with the key 'steps'")
    for key in values:
        if key not in _KEYS:
            raise CodingError((key,), f"a recipe has no key {short(key)}{nearest(str(key), _KEYS)}")
    version = values.get("tenfold", VERSION)
    if version != VERSION or isinstance(version, bool):
        raise CodingError(
            ("tenfold",),
            f"the recipe has version {short(version)}; this Tenfold reads version {VERSION}",
        )
    seed = values.get("seed", 0)
    if type(seed) is not int or not 0 <= seed < 2**63:
        raise CodingError(("seed",), f"seed must be a whole number of at least 0, not {short(seed)}")
    steps = values.get("steps")
    if not isinstance(steps, list):
        raise CodingError(("steps",), "steps must be a list of techniques")
    return Recipe(tuple(technique_from(step, ("steps", index)) for index, step in enumerate(steps)), seed)


def read_recipe(path: Path | str) -> Recipe:
    """The recipe in a YAML file. A `RecipeError` begins with the file, and the line where it is known."""
    return read_yaml(path, recipe_from)


def parse_recipe(text: str, source: str = "recipe") -> Recipe:
    """The recipe in a YAML text; `source` begins the message of any `RecipeError`."""
    return parse_yaml(text, recipe_from, source)


def apply_recipe(
    recipe: Recipe, task: Task, run: Run, due: Callable[[int], float] | None = None
) -> tuple[nn.Module, tuple[Step, ...]]:
    """Apply the steps in order to `task.model`: the changed network in eval mode, and what was decided.

    Every step is checked first against the network that it will meet, so that the last one's trouble is known before
    the first one's work; where data decide what that network is like, as soon as they have. Raises `RecipeError` with
    the problems found. The network given is not changed. `due(index)`, asked as a step begins, is the
    `time.monotonic()` value by which that step must return, where that is not the run's own deadline. With a checkpoint
    in `run` steps go on where they were stopped; what they keep is the caller's to remove (`forget_checkpoints`).
    """
    checked = _check(recipe, task, run, task.model, 0)
    teacher = task.model if run.teacher is None else run.teacher
    run = replace(run, teacher=teacher)
    model, steps = task.model, []
    origins = {name: name for name in names_of(model)}
    known = origins.keys() == names_of(teacher)
    for index, technique in enumerate(recipe.steps):
        part = run.part(index / len(recipe.steps), (index + 1) / len(recipe.steps))
        deadline = run.deadline if due is None else due(index)
        # A file for each step, so that what a later one keeps is not in place of what an earlier one did.
        kept = None if run.checkpoint is None else checkpoint_of(run.checkpoint, index)
        part = replace(part, deadline=deadline, checkpoint=kept, origins=origins if known else None)
        applied = technique.apply(model, task, part)
        model = applied.model
        origins = origins_after(origins, model, applied.renamed)
        steps.append(Step(technique, applied.resolved))
        if index + 1 == checked:  # only now is it known what the rest will meet
            checked = _check(recipe, task, run, model, checked)
    return model, tuple(steps)


def checkpoint_of(path: Path, index: int) -> Path:
    """Where step `index` of a recipe keeps how far it is, if the run has the checkpoint `path`."""
    return path.with_stem(f"{path.stem}-{index + 1}")


def forget_checkpoints(path: Path, steps: int) -> None:
    """Remove what so many steps of a recipe, and the stages of each, have kept for a run with the checkpoint `path`."""
    for kept in (checkpoint_of(path, index) for index in range(steps)):
        for file in (kept, *kept.parent.glob(f"{escape(kept.stem)}{STAGE}*{escape(kept.suffix)}")):
            file.unlink(missing_ok=True)


def preflight_recipe(recipe: Recipe, task: Task, run: Run) -> list[str]:
    """What stands against each step, as "step 1 (prune): layer: text".

    Nothing is said of steps that follow one whose outcome takes data to know.
    """
    return _foreseen(recipe, task, run, task.model, 0)[0]


def _check(recipe: Recipe, task: Task, run: Run, model: nn.Module, start: int) -> int:
    """Raise a `RecipeError` for problems of the steps from `start` on; how many steps are known to have none."""
    problems, checked = _foreseen(recipe, task, run, model, start)
    if problems:
        raise RecipeError("the recipe cannot be applied: " + "; ".join(problems))
    return checked


def _foreseen(recipe: Recipe, task: Task, run: Run, model: nn.Module, start: int) -> tuple[list[str], int]:
    """(the problems of the steps from `start` on, which `model` meets first; the place of the first not looked at)."""
    if recipe.steps[start:]:
        problems = quantized(model) or unrunnable(model, task)
        if problems:
            return [str(problem) for problem in problems], len(recipe.steps)
    found: list[str] = []
    for index, technique in enumerate(recipe.steps[start:], start):
        problems = technique.preflight(model, task, run.device)
        found += [f"step {index + 1} ({technique_name(technique)}): {problem}" for problem in problems]
        if problems or index + 1 == len(recipe.steps):
            continue  # what follows a step that fails is checked as if that were left out
        after = technique.foresee(model, task) if isinstance(technique, Foreseeing) else None
        if after is None:
            return found, index + 1
        model = after
    return found, len(recipe.steps)


def names_of(model: nn.Module) -> set[str]:
    """The names of all modules."""
    return {name for name, _ in model.named_modules()}


def origins_after(origins: Mapping[str, str], model: nn.Module, renamed: Mapping[str, str]) -> dict[str, str]:
    """`origins` (`Run.origins`) after a technique that made `model` and renamed these modules.

    Modules that are new, such as the factors of a layer, have none.
    """
    formerly = {name: renamed.get(name, name) for name in names_of(model)}
    return {name: origins[former] for name, former in formerly.items() if former in origins}
