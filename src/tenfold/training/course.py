"""A course of training in stretches: the same steps, learning rates and orders of examples, from any step to any other.

What comes back to an early state of a network (`compress.prune.tickets`) goes on from there as the first run did.
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor, nn

from tenfold.errors import NetworkError
from tenfold.training.loop import Progress
from tenfold.training.precision import Precision, plain_layout
from tenfold.training.recipes import Compiling, TrainingRecipe
from tenfold.training.resident import ResidentImages
from tenfold.training.schedules import warmup_cosine
from tenfold.training.stepper import Stepper

LOOK_EVERY = 50  # steps between looks at the loss, each of which waits for the GPU


class Course:
    """Training on `data` by `recipe`, whose every step is fixed by its number and `seed`; by `teacher`'s answers too.

    Called with a network on the data's device, the step it stands at and the one to stop before, it trains the network
    in place and leaves it in eval mode. The optimiser begins afresh with every stretch. A recipe that averages
    weights or leaves branches out is refused: both span a whole run. A `teacher` on the same device teaches as the
    recipe's `teaching` and `temperature` say. Only a recipe that asks for it (`compile: on`) has the network and its
    teacher compiled, by every stretch anew.
    """

    def __init__(
        self,
        data: ResidentImages,
        recipe: TrainingRecipe,
        *,
        precision: Precision | None = None,
        teacher: nn.Module | None = None,
        seed: int = 0,
        graph: bool = True,
    ) -> None:
        if recipe.average is not None or recipe.stochastic_depth:
            raise ValueError("a course of stretches takes no recipe with an average or with stochastic depth")
        self.data, self.recipe, self.teacher, self.seed, self.graph = data, recipe, teacher, seed, graph
        self.precision = precision or Precision()
        self.batch_size = min(recipe.batch_size, len(data))
        self.per_epoch = max(1, len(data) // self.batch_size)
        self.steps = math.ceil(recipe.epochs * self.per_epoch - 1e-6)

    def __call__(
        self,
        model: nn.Module,
        start: int = 0,
        stop: int | None = None,
        *,
        until: float = math.inf,
        progress: Progress = lambda fraction, text: None,
    ) -> int:
        """Train from step `start` up to `stop` (the end by default); the step reached, less where `until` came first.

        `until` is a `time.monotonic()` value. Raises `NetworkError` where the loss is not finite.
        """
        if not 0 <= start <= (self.steps if stop is None else stop) <= self.steps:
            raise ValueError(f"a stretch lies between steps 0 and {self.steps}, not from {start} to {stop}")

        def ended() -> bool:
            return step >= (self.steps if stop is None else min(stop, self.steps))

        device = self.data.device
        step = start
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed((self.seed << 24) + start)
            self.precision.model(model).train()
            stepper = self._stepper(model)
            try:
                order, epoch = torch.empty(0), -1
                while not ended() and time.monotonic() < until:
                    if step // self.per_epoch != epoch:
                        epoch = step // self.per_epoch
                        order = self._order(epoch)
                    place = step % self.per_epoch * self.batch_size
                    stepper(order[place : place + self.batch_size], self._learning_rate(step))
                    step += 1
                    if step % LOOK_EVERY == 0 or ended():
                        loss = float(stepper.loss)
                        if not math.isfinite(loss):
                            raise NetworkError(
                                f"training diverged: the loss is {loss} by step {step} with learning rate "
                                f"{self.recipe.optimizer.learning_rate:g}; give a lower learning rate"
                            )
                        progress(step / self.steps, f"step {step:,} of {self.steps:,}")
            finally:
                plain_layout(model).eval()
                for parameter in model.parameters():
                    parameter.grad = None
        return step

    def resize(self, steps: int) -> None:
        """Let the whole course be of so many steps, also while it runs: the rate then runs down by the last of them.

        What is fixed by a step's number is so only among courses of the same length.
        """
        if steps < 1:
            raise ValueError(f"a course has 1 step or more, not {steps}")
        self.steps = steps

    def _stepper(self, model: nn.Module) -> Stepper:
        if self.teacher is not None:
            self.precision.model(self.teacher).eval()
        stepper = Stepper(
            model,
            self.data,
            self.recipe,
            self.batch_size,
            self.precision,
            teacher=self.teacher,
            graph=self.graph,
        )
        if self.recipe.compile is Compiling.ON:
            stepper.compile()
        return stepper

    def _learning_rate(self, step: int) -> float:
        recipe, done = self.recipe, max(step, 1) / self.steps
        return recipe.optimizer.learning_rate * warmup_cosine(done, recipe.warmup, recipe.floor)

    def _order(self, epoch: int) -> Tensor:
        """The examples of an epoch in their order, which the seed and the epoch alone decide."""
        generator = torch.Generator().manual_seed((self.seed << 20) + epoch)
        return torch.randperm(len(self.data), generator=generator).to(self.data.device)
