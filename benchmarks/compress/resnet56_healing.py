"""How the networks of `resnet56_networks` are healed: by which answers, for how long, and how they are scored."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from benchmarks.compress.resnet56_remembered import Recalled, Remembered
from benchmarks.training.jobs import MIX, VARIED
from torch import Tensor, nn

from tenfold.compress.layers import weighted_layers
from tenfold.compress.prune.tickets import masked
from tenfold.cost import profile
from tenfold.data import Task
from tenfold.training import (
    Augmentation,
    Course,
    Ensemble,
    Precision,
    Sgd,
    TrainingRecipe,
)
from tenfold.training.recipes import Compiling
from tenfold.training.resident import ResidentImages
from tenfold.training.scoring import right_answers

SPARSITY, BITS = 0.86, 4  # of Deep Compression, unless others are given
RECIPE = TrainingRecipe(
    batch_size=256,
    optimizer=Sgd(0.1, 0.9, 5e-4),
    warmup=0.05,
    teaching=0.9,
    temperature=4.0,
    augmentation=Augmentation(padding=4, flip=True),
)
# Cut and mixed, so that nothing is learnt by heart, for long schedules.
MIXED = replace(
    RECIPE, optimizer=Sgd(0.1, 0.9, 3e-4), teaching=0.95, temperature=2.0, augmentation=MIX, clip=5.0
)
# Turned and recoloured as well, and mixed evenly: what a teacher has to say of more and stranger images.
STRANGE = replace(MIXED, augmentation=replace(VARIED, mixup=1.0))
RECIPES = {"no": RECIPE, "mixed": MIXED, "strange": STRANGE}  # by what is shown
KNOWN_BY = 400  # steps: by then everything is compiled and captured
LEAST_STEPS = 2_000  # of a healing that is bounded by its time
FINE_TUNED = 0.12  # of the passes fine-tune shared values
FINE_TUNED_MIXED = 0.04  # with `--mixed`, where passes are many more


def held(model: nn.Module, masks: dict[str, Tensor]) -> AbstractContextManager[None]:
    """`masked` where there is anything to hold."""
    return masked(model, masks) if masks else nullcontext()


@dataclass
class Bench:
    """The network, the data on the device, and what healing is."""

    original: nn.Module
    task: Task
    device: torch.device
    precision: Precision
    epochs: float
    deadline: float
    recipe: TrainingRecipe = RECIPE
    beside: dict[str, nn.Module] = field(default_factory=dict)
    remember: int = 0  # passes whose varied images and answers are kept
    each: float | None = None
    design: str | None = None
    sparsity: float = SPARSITY
    bits: int = BITS
    data: dict[str, ResidentImages] = field(default_factory=dict)

    def course(
        self,
        epochs: float,
        seed: int,
        *,
        graph: bool = True,
        compiled: bool = False,
        rate: float | None = None,
    ) -> Course:
        recipe = replace(self.recipe, epochs=epochs)
        if self.remember:
            data, teacher = self.remembered, Recalled(self.remembered)
            recipe = replace(recipe, epochs=epochs / self.remember, teaching=1.0, augmentation=Augmentation())
        else:
            data, teacher = self.data["train"], self.teacher
        if not compiled:
            recipe = replace(recipe, compile=Compiling.OFF)
        if rate is not None:
            recipe = replace(recipe, optimizer=replace(recipe.optimizer, learning_rate=rate))
        return Course(data, recipe, precision=self.precision, teacher=teacher, seed=seed, graph=graph)

    @property
    def teacher(self) -> nn.Module:
        """The original and those beside it, on the device."""
        teachers = Ensemble(copy.deepcopy([self.original, *self.beside.values()]))
        return self.precision.model(teachers.to(self.device)).eval().requires_grad_(False)

    @cached_property
    def remembered(self) -> Remembered:
        """The same for all networks and seeds."""
        began = time.monotonic()
        torch.manual_seed(0)
        made = Remembered(self.data["train"], self.recipe, self.teacher, self.remember, self.precision)
        print(f"{self.remember} passes remembered in {time.monotonic() - began:.0f} s", flush=True)
        return made

    @property
    def mixed(self) -> bool:
        """Whether images are cut and mixed."""
        return self.recipe.augmentation.cutmix > 0

    @property
    def fine_tuned(self) -> float:
        """The share of the passes that fine-tunes shared values."""
        return FINE_TUNED_MIXED if self.mixed else FINE_TUNED

    def taught(
        self,
        course: Course,
        model: nn.Module,
        seconds: float | None = None,
        at_look: Callable[[float], None] = lambda share: None,
    ) -> dict[str, float]:
        """Train by the course, made as short as its pace asks for if `seconds` are given; its steps and passes.

        `at_look` hears every few dozen steps how much of it is done.
        """
        planned, deadline = course.steps, math.inf if seconds is None else time.monotonic() + seconds
        first: tuple[int, float] | None = None

        def progress(share: float, text: str) -> None:
            nonlocal first
            step, now = round(share * course.steps), time.monotonic()
            if now > deadline and (first is None or step < LEAST_STEPS):
                raise SystemExit(f"{seconds:g} s are over after {step} steps: give --each more")
            if first is None and step >= KNOWN_BY:
                first = step, now
            elif first is not None and seconds is not None:
                pace = (now - first[1]) / (step - first[0])
                course.resize(min(planned, step + max(0, int((deadline - now) / pace))))
            at_look(step / course.steps)

        done = course(model, progress=progress)
        epochs = done / course.per_epoch * max(self.remember, 1)
        return {"steps": done, "steps_planned": planned, "epochs": epochs}

    def healed(
        self, model: nn.Module, epochs: float, seed: int, *, final: bool = False
    ) -> tuple[nn.Module, dict[str, float]]:
        """A copy of `model` after so many passes, and how many they were; single weights that are zero stay zero.

        The `final` healing of a network is compiled and bounded by its time, where that is asked for.
        """
        model = copy.deepcopy(model).to(self.device)
        zeros = {n: layer.weight.detach() != 0 for n, layer in weighted_layers(model).items()}
        zeros = {name: mask for name, mask in zeros.items() if not bool(mask.all())}
        course = self.course(epochs, seed, compiled=final)
        with held(model, zeros):
            done = self.taught(course, model, self.each if final else None)
        return model, done

    def right(self, model: nn.Module, split: str) -> int:
        plain = Precision(channels_last=self.precision.channels_last)
        return right_answers(copy.deepcopy(model).to(self.device), self.data[split], plain)

    def macs(self, model: nn.Module) -> int:
        return profile(copy.deepcopy(model).cpu(), self.task.zeros(1)).macs
