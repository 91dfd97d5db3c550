"""A network made ready to serve: saved, exported, its recipe beside it, and verified against PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import nn

from tenfold.compress import Recipe, Step, read_structure, save
from tenfold.compress.registry import is_final
from tenfold.compress.technique import Json
from tenfold.data import Task
from tenfold.deploy import Artifact, Verification, deploy_onnx, verify
from tenfold.search.scoring import Runner

FILES = ("structure.json", "weights.safetensors", "model.onnx", "recipe.yaml")
VERIFIED_EXAMPLES = 64


def serve(
    folder: Path,
    model: nn.Module,
    steps: Sequence[Step],
    recipe: Recipe,
    task: Task,
    extra: Json | None = None,
) -> Artifact:
    """Write `FILES` to `folder`, `extra` into the structure's; returns the artefact, not yet verified.

    Raises `ExportError` where the network has no ONNX form.
    """
    artifact = deploy_onnx(model, task.example(2), folder / "model.onnx")
    save(folder, model, steps, inputs=task.example(2), base=task.base, extra=extra)
    recipe.write(folder / "recipe.yaml")
    return artifact


def verified(model: nn.Module, runner: Runner, task: Task) -> Verification:
    """The artefact's answers to real examples, held against PyTorch's; `VerificationError` where they differ."""
    checked = verify(model, runner, task.example(min(VERIFIED_EXAMPLES, len(task.train))))
    checked.require()
    return checked


def unquantized(folder: Path, task: Task) -> nn.Module:
    """A network of the shapes that the saved one in `folder` had before its layers became integers.

    Made from `task.model`; its weights are not the saved ones.
    """
    return before_integers(read_structure(folder / "structure.json").steps, task)


def before_integers(steps: Sequence[Step], task: Task) -> nn.Module:
    """`task.model` in the structure that these steps give it without the last, where that makes integers of weights."""
    model = task.model
    for step in steps:
        if not is_final(step.technique):
            model = step.technique.rebuild(model, step.resolved, task.zeros(2))
    return model
